"""node.yaml: closed until opened, and every mistake is named."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from med_transfer.errors import ConfigError, UnknownKey
from med_transfer.hospital.config import NodeConfig, port_error, read_node_config

WORKLIST = "service: {kind: dicomweb, url: 'https://ris/rs'}"


def written(folder: Path, text: str) -> Path:
    path = folder / "node.yaml"
    path.write_text(text)
    return path


def test_nothing_is_open_by_default(tmp_path):
    config = read_node_config(written(tmp_path, "folder: state\n"))
    assert (config.bind, config.callers, config.destinations) == ("127.0.0.1", (), ())
    assert config.folder == tmp_path / "state"


def test_paths_start_from_the_file(tmp_path):
    text = "folder: /state\ntls: {certificate: a.pem, key: keys/a.key, trusted: /etc/b.pem}\n"
    config = read_node_config(written(tmp_path, text))
    assert config.folder == Path("/state")
    assert config.tls is not None
    assert (config.tls.key, config.tls.trusted) == (tmp_path / "keys/a.key", Path("/etc/b.pem"))


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("port: 11112", ConfigError, "folder"),
        ("folder: x\nport: 0", ConfigError, "port: found 0; expected a value greater than or equal to 1"),
        ("folder: x\nprot: 104", UnknownKey, "prot: no such key; expected port perhaps"),
        ("folder: x\nae_title: MUCH_TOO_LONG_A_TITLE", ConfigError, "expected an AE title"),
        ("folder: x\nbind: everywhere", ConfigError, "expected an IP address of this machine"),
        ("folder: x\ncallers: [{ae_title: CT, address: 10.0.0.999}]", ConfigError, "expected an IP address or network"),
        ("folder: x\ncallers: [{ae_title: CT}]", ConfigError, "callers.0.address: missing"),
        ("folder: x\nresults: {codes: {a: {value: v, scheme: S}}}", ConfigError, "results.codes.a.meaning: missing"),
        (
            "folder: x\nresults: {codes: {a: {value: v, scheme: S, meaning: 'a\\b'}}}",
            ConfigError,
            "codes.a.meaning: .*expected text without backslash",
        ),
        ("folder: x\ndestinations: [{ae_title: P, address: p, port: 1, tls: true}]", ConfigError, "no section tls"),
        ("folder: x\npacs: {kind: dicomweb, url: 'http://pacs/web'}", ConfigError, "in the clear; expected https"),
        ("folder: x\ndestinations: [{kind: fax, url: x}]", ConfigError, "destinations.0: found 'fax'"),
        ("folder: x\ndestinations: [{kind: dicomweb, url: 'https://p/w', tls: true}]", UnknownKey, "no such key"),
        ("folder: x\nweb: {port: 8080}", ConfigError, "who may send"),
        ("folder: x\nport: 9464\nmetrics: {}", ConfigError, "port 9464 twice: the node's, metrics; expected one each"),
        (
            "folder: x\nweb: {port: 8443, token: t}\npage: {bind: 0.0.0.0, names: [h], certificate: c, key: k}",
            ConfigError,
            "port 8443 twice: web, page",
        ),
        ("folder: x\nstudy: {quiet_seconds: 7200}", ConfigError, r"longest_seconds \(3600\) below quiet_seconds"),
        (f"folder: x\nworkitems: {{{WORKLIST}}}", ConfigError, "which items are the node's"),
        (f"folder: x\nworkitems: {{{WORKLIST}, label: AI}}", ConfigError, "without a destination"),
        (
            "folder: x\nshadow: true\ndestinations: [{ae_title: P, address: p, port: 1}]\n"
            f"workitems: {{{WORKLIST}, label: AI}}",
            ConfigError,
            "in shadow: their results",
        ),
        (f"folder: x\nworkitems: {{{WORKLIST}, lable: AI}}", UnknownKey, "expected workitems.label perhaps"),
        (f"folder: x\nworkitems: {{{WORKLIST}, station: NODE}}", ConfigError, "workitems.station"),
        ("folder: x\ncallers: {ae_title: CT, address: 10.0.0.9}", ConfigError, "callers: found .*; expected a list"),
        (
            "folder: x\ndestinations: [{ae_title: P, adress: p, port: 1}]",
            UnknownKey,
            "destinations.0.adress: no such key; expected destinations.address perhaps",
        ),
        (
            "folder: x\npacs: {ae_title: P, address: 'http://p:104', port: 104}",
            ConfigError,
            "pacs.address: .*expected a host name or IP address; the port has a key of its own",
        ),
        ("folder: x\npacs: {url: 'pacs.hospital'}", ConfigError, "pacs.url: .*as https://pacs.hospital/dicom-web"),
        ("folder: x\nfhir: [{url: 'http://fhir/r4'}]", ConfigError, "expected an address as https://fhir.hospital/r4"),
        (
            "folder: x\nstudy: {series: {require: [{kernal: b}]}}",
            UnknownKey,
            "study.series.require.0.kernal: no such key",
        ),
    ],
)
def test_a_mistake_is_named(tmp_path, text, kind, message):
    with pytest.raises(kind, match=message):
        read_node_config(written(tmp_path, text))


def test_a_port_may_be_used_on_two_addresses(tmp_path):
    read_node_config(written(tmp_path, "folder: x\nbind: 10.1.2.3\nport: 9464\nmetrics: {bind: 127.0.0.1}\n"))


def test_a_peer_with_a_url_is_a_service(tmp_path):
    text = "folder: x\ndestinations: [{url: 'https://p/w'}, {ae_title: P, address: p, port: 1}]\n"
    assert [one.kind for one in read_node_config(written(tmp_path, text)).destinations] == ["dicomweb", "dicom"]


@pytest.mark.parametrize("url", ["http://[::1]/w", "http://[::1]:8042/w", "http://localhost/w", "http://127.0.0.1:80"])
def test_http_is_for_this_machine(tmp_path, url):
    read_node_config(written(tmp_path, f"folder: x\npacs: {{url: '{url}'}}\n"))


def test_an_address_of_another_machine_is_not_called_a_taken_port():
    error = port_error(OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address"), "10.9.9.9", 104)
    assert str(error).endswith("expected an address of this machine.")
    assert "above 1023" in str(port_error(OSError(errno.EACCES, "Permission denied"), "127.0.0.1", 104))


def test_every_key_has_its_words():
    assert all(name in (NodeConfig.__doc__ or "") for name in ("folder", "callers", "destinations", "shadow"))
