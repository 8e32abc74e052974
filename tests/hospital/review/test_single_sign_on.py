"""Sign-in by a real OpenID provider on loopback, and by one whose answers cannot be trusted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

import pytest
from browsing import HTML, Browser, Page, page_of
from identity_provider import IdentityProvider, identity_provider
from joserfc.jwk import OctKey, RSAKey

from med_transfer.hospital.review.access.database import Database
from med_transfer.hospital.review.access.oidc import Provider, SignOnFailed
from med_transfer.hospital.review.access.routes import safe_goal
from med_transfer.hospital.review.access.sessions import Sessions
from med_transfer.hospital.settings.page import Oidc, ReviewPage


@dataclass
class Hospital:
    page: Page
    provider: IdentityProvider

    def answer(self, browser: Browser, goal: str = "/load") -> str:
        """Where the provider sends a browser back to."""
        there = browser.get(f"/oidc/login?next={goal}").headers["Location"]
        return browser.get(there).headers["Location"]


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Iterator[Hospital]:
    with identity_provider() as provider:
        oidc = {"issuer": provider.url, "client_id": provider.client, "roles": {"radiology": "reviewer"}}
        with page_of(tmp_path_factory.mktemp("page") / "state", {"oidc": oidc}) as page:
            yield Hospital(page, provider)


@pytest.fixture
def hospital(shared, monkeypatch) -> Hospital:
    """With what a test changes of the provider put back."""
    for name in ("claims", "spoil", "key", "published", "algorithm"):
        monkeypatch.setattr(shared.provider, name, getattr(shared.provider, name))
    with shared.page.access.database.writing() as database:
        database.execute("DELETE FROM attempt")
    return shared


def test_who_signs_in_has_the_role_that_the_provider_says(hospital):
    browser = hospital.page.browser()
    assert 'href="/oidc/login?next=/load"' in browser.get("/login?next=/load").text
    answer = browser.get(hospital.answer(browser))
    assert (answer.status_code, answer.headers["Location"]) == (303, "/load")
    assert "SameSite=lax" in answer.headers["Set-Cookie"]  # a strict cookie would not be sent from another site
    text = browser.get("/load").text
    assert "doctor" in text
    assert "reviewer" in text
    assert browser.get("/accesses").status_code == 403
    assert hospital.page.events()[-3:-1] == [("doctor", "signed in"), ("doctor", "saw load")]
    assert hospital.page.access.users.all() == []
    passwords = browser.post("/login", data={"csrf": browser.token, "name": "doctor", "password": "x"}, headers=HTML)
    assert passwords.status_code == 403


def test_an_answer_is_good_once_and_for_the_browser_that_asked(hospital):
    browser, thief = hospital.page.browser(), hospital.page.browser()
    answer = hospital.answer(browser)
    thief.get("/login")
    assert thief.get(answer).status_code == 403
    assert browser.get(answer).status_code == 403  # the attacker has used it up
    answer = hospital.answer(browser)
    assert browser.get(answer).status_code == 303
    assert browser.get(answer).status_code == 403
    path = answer.replace(parse_qs(urlsplit(answer).query)["state"][0], "guessed")
    assert browser.get(path).status_code == 403
    assert hospital.page.events()[-1] == ("unknown", "not signed in")


@pytest.mark.usefixtures("clock")
def test_made_up_answers_must_wait_and_fill_no_record(hospital):
    browser, before = hospital.page.browser(), len(hospital.page.events())
    answers = [browser.get(f"/oidc/answer?state={number}").status_code for number in range(9)]
    assert answers == [403] * 5 + [429] * 4
    assert len(hospital.page.events()) == before + 5


@pytest.mark.usefixtures("clock")
def test_pictures_on_other_sites_keep_nobody_from_signing_in(hospital):
    """A browser that shows them asks for their addresses, which may be this one; it does so from its own address."""
    browser, before = hospital.page.browser(), len(hospital.page.events())
    for kind in ("image", "iframe") * 5:
        answer = browser.get("/oidc/answer?state=guessed", headers={"Sec-Fetch-Dest": kind})
        assert (answer.status_code, answer.json()) == (403, {"detail": "not_from_this_page"})
    assert len(hospital.page.events()) == before
    assert browser.get(hospital.answer(browser), headers={"Sec-Fetch-Dest": "document"}).status_code == 303


@pytest.mark.usefixtures("clock")
def test_who_signs_in_at_last_starts_anew(hospital):
    browser = hospital.page.browser()
    for _ in range(2):
        assert {browser.get(f"/oidc/answer?state={number}").status_code for number in range(4)} == {403}
        assert browser.get(hospital.answer(browser)).status_code == 303


def test_a_session_of_a_password_is_none_where_the_provider_says_who_gets_in(hospital):
    """As those begun before node.yaml got its section ``oidc``; and those of a provider that was removed from it."""
    access = hospital.page.access
    with access.database.writing() as database:
        database.execute("INSERT INTO user VALUES ('ann', 'operator', '')")
    try:
        assert hospital.page.browser("ann").get("/").status_code == 401
    finally:
        access.users.remove("ann")
    local = Sessions(access.database, ReviewPage())
    assert local.find(local.begin("doctor", "operator", local=False)) is None


STALE = time.time() - 3600
WRONG = {
    "nonce": lambda claims: claims | {"nonce": "another"},
    "no nonce": lambda claims: {name: value for name, value in claims.items() if name != "nonce"},
    "issuer": lambda claims: claims | {"iss": "https://evil.example"},
    "audience": lambda claims: claims | {"aud": "another-client"},
    "audiences without a party": lambda claims: claims | {"aud": ["review-page", "other"]},
    "party": lambda claims: claims | {"aud": ["review-page", "other"], "azp": "other"},
    "expired": lambda claims: claims | {"exp": int(STALE), "iat": int(STALE) - 60},
    "no role": lambda claims: claims | {"roles": ["staff"]},
    "a role that is no word": lambda claims: claims | {"roles": [["radiology"], {"radiology": True}]},
    "role of another kind": lambda claims: claims | {"roles": {"radiology": True}},
    "no name": lambda claims: claims | {"preferred_username": ""},
    "a name that commands": lambda claims: claims | {"preferred_username": "a\nb"},
}


@pytest.mark.parametrize("what", WRONG)
def test_a_token_that_says_something_else_is_refused(hospital, what):
    hospital.provider.spoil = WRONG[what]
    browser = hospital.page.browser()
    answer = browser.get(hospital.answer(browser))
    assert answer.status_code == 403
    assert browser.get("/").status_code == 401


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        (RSAKey.generate_key(2048, auto_kid=True), "RS256"),
        (OctKey.import_key("a secret that somebody has made up, long enough for it"), "HS256"),
    ],
)
def test_a_token_of_another_key_is_refused(hospital, key, algorithm):
    hospital.provider.key, hospital.provider.algorithm = key, algorithm
    browser = hospital.page.browser()
    assert browser.get(hospital.answer(browser)).status_code == 403


def test_a_new_key_of_the_provider_is_looked_for(hospital):
    hospital.provider.key = hospital.provider.published = RSAKey.generate_key(2048, auto_kid=True)
    browser = hospital.page.browser()
    assert browser.get(hospital.answer(browser)).status_code == 303


def test_a_provider_that_is_another_or_away(hospital, tmp_path):
    database = Database(tmp_path / "access.sqlite")
    for issuer, reason in ((hospital.provider.url + "/", "issuer"), ("http://127.0.0.1:9", "provider")):
        settings = Oidc(issuer=issuer, client_id="c", roles={"a": "reader"})
        with pytest.raises(SignOnFailed, match=reason):
            Provider(settings, database).begin("browser", "http://localhost/oidc/answer", "/")
    database.close()


@pytest.mark.parametrize("missing", ["authorization_endpoint", "token_endpoint", "jwks_uri"])
def test_a_provider_that_does_not_say_where(hospital, missing, monkeypatch, tmp_path):
    told = {name: value for name, value in hospital.provider.document().items() if name != missing}
    monkeypatch.setattr(hospital.provider, "document", lambda: told)
    settings = Oidc(issuer=hospital.provider.url, client_id="c", roles={"a": "reader"})
    database = Database(tmp_path / "access.sqlite")
    with pytest.raises(SignOnFailed, match="provider"):
        Provider(settings, database).begin("browser", "http://localhost/oidc/answer", "/")
    database.close()


def test_a_provider_that_is_away_and_long_goals_fill_no_database(tmp_path):
    """Anybody may ask for the sign-on, as often as they like."""
    away = {"issuer": "http://127.0.0.1:9", "client_id": "c", "roles": {"a": "reader"}}
    with page_of(tmp_path, {"oidc": away}) as page:
        browser = page.browser()
        assert {browser.get("/oidc/login").status_code for _ in range(3)} == {403}
        assert page.events() == []
    assert safe_goal("/study/s1?answer=1") == "/study/s1?answer=1"
    assert safe_goal(f"/{'x' * 5000}") == "/"
