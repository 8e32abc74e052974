"""Unusual requests, generated from the page's OpenAPI schema: none is answered with a 5xx.

``MED_TRANSFER_STRANGE_REQUESTS=10000`` generates that many instead of a few hundred.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterator

import pytest
from browsing import Browser, Page, hashed, page_of
from hypothesis import HealthCheck, Phase, given, settings
from made_up_studies import fill

REQUESTS = int(os.environ.get("MED_TRANSFER_STRANGE_REQUESTS", "300"))


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Iterator[Page]:
    with page_of(tmp_path_factory.mktemp("page") / "state") as served:
        fill(served.app.state.queue, 12)
        served.access.users._nobody = hashed()  # an unknown name is as cheap as a known one
        yield served


def test_no_request_breaks_the_page(page):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import schemathesis

    schema = schemathesis.openapi.from_dict(page.app.openapi())
    schema.config.update(base_url=page.url)
    operations = [found.ok() for found in schema.get_all_operations()]
    answered: Counter[int] = Counter()
    for operation in operations:
        browser = page.browser("ann")
        browser.headers["X-CSRF-Token"] = browser.token
        ask(operation, browser, answered, 2 * REQUESTS // len(operations))
    print(dict(sorted(answered.items())))  # noqa: T201  for who draws many
    assert answered.total() >= REQUESTS  # an operation without parameters has little to draw from
    assert answered[200] + answered[303] > 100  # a form is answered by an address to go to
    assert page.browser("ann").get("/").status_code == 200


def ask(operation, browser: Browser, answered: Counter[int], most: int) -> None:
    @settings(
        max_examples=most,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def one(case):
        status = case.call(session=browser, timeout=240, allow_redirects=False).status_code
        answered[status] += 1
        assert status < 500, case.as_curl_command()

    one()
