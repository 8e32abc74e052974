import os
import time

import pytest
from killed import killed_at

from med_transfer.atomic import write_text
from med_transfer.atomic.partial_files import partial_path, remove_stale


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_what_a_killed_process_was_writing_goes_when_the_next_one_writes_beside_it(tmp_path):
    def write_folder():
        partial_path(tmp_path / "bundle").mkdir()
        write_text(tmp_path / "a.json", "x")

    assert killed_at(1, write_folder)
    assert len(list(tmp_path.iterdir())) == 2
    own = partial_path(tmp_path / "b.json")  # the first of this process in the folder
    assert not list(tmp_path.iterdir())

    own.touch()  # still in use: by this process, and by one on another machine
    elsewhere = own.with_name(".1-ffff00000000.partial.b.json" if "-0000" in own.name else ".1-000000000000.partial.b")
    elsewhere.touch()
    remove_stale(tmp_path)
    assert set(tmp_path.iterdir()) == {own, elsewhere}
    days_ago = time.time() - 2 * 86400
    os.utime(elsewhere, (days_ago, days_ago))
    remove_stale(tmp_path)
    assert set(tmp_path.iterdir()) == {own}
