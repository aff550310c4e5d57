"""The page of the explorer over HTTP, with a model whose scores are known."""

import dataclasses
import html
import re
import urllib.parse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from bert4rec_tf.explorer.catalogue import Catalogue
from bert4rec_tf.explorer.held_out_users import HeldOutUser, HeldOutUsers
from bert4rec_tf.explorer.state import MAX_HISTORY, State
from bert4rec_tf.explorer.view import Explored
from tests.support.explored_models import ITEM_IDS, TITLES, VOCABULARY, TableModel, served
from tests.support.html_page import Page

pytest.importorskip("starlette", reason="starlette is an extra: pip install -r requirements-explore.txt")
USERS = HeldOutUsers(
    {
        "u/1 &": HeldOutUser("u/1 &", ("i0", "i1"), "i2"),
        "u2": HeldOutUser("u2", tuple(ITEM_IDS) * 3, "i0"),
        "u3": HeldOutUser("u3", ("i0",), ""),
    },
    5,
    VOCABULARY,
)
EXPLORED = Explored((TableModel(1),), Catalogue(VOCABULARY), USERS)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    yield from served(EXPLORED)


@pytest.fixture(scope="module")
def compared() -> Iterator[str]:
    models = TableModel(1), TableModel(2, has_attention=False)
    yield from served(dataclasses.replace(EXPLORED, models=models))


def get(address: str, path: str = "/", status: int = 200, **pairs: object) -> requests.Response:
    answer = requests.get(f"{address}{path}", params=pairs, timeout=30)
    assert answer.status_code == status, answer.text
    return answer


def show(address: str, state: State, **pairs: object) -> str:
    """The page of a state, which must be well-formed HTML."""
    query = f"{state.to_query()}&{urllib.parse.urlencode(pairs)}".strip("&")
    answer = get(address, f"/?{query}")
    Page(re.sub(r"<(input|meta|link)\b([^>]*)>", r"<\1\2></\1>", answer.text).replace("</meta>", ""))
    return answer.text


def act(address: str, state: State, action: str, **pairs: object) -> State:
    """Presses a button of the page of a state, as a browser does; gives the state of the page that follows."""
    page = show(address, state)
    fields = re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', page.partition("</form>")[0])
    given = [(name, html.unescape(value)) for name, value in fields] + [("k", state.k), ("do", action), *pairs.items()]
    given += [("seen", 1)] if state.keep_seen else []
    answer = requests.get(f"{address}/act", params=given, timeout=30)
    assert answer.status_code == 200
    return State.from_query(urllib.parse.parse_qsl(urllib.parse.urlsplit(answer.url).query, keep_blank_values=True))


def recommended(page: str) -> list[str]:
    """The names in the first list of recommendations."""
    first = page.partition('<ol class="recommended">')[2].partition("</ol>")[0]
    names = re.findall(r'<span class="name">(?:<mark>)?<span class="title">(.*?)</span>', first, re.DOTALL)
    return [html.unescape(name) for name in names]


def names_of(found: list[tuple[str, float]]) -> list[str]:
    return [TITLES[item_id] or item_id for item_id, _ in found]


@pytest.mark.parametrize("history", [(), ("i0",), ("unknown",), tuple(ITEM_IDS[2:8])])
@pytest.mark.parametrize("keep_seen", [False, True])
def test_the_page_shows_the_best_items(address: str, history: tuple[str, ...], keep_seen: bool) -> None:
    state = State(history or None, ("i1",), k=5, keep_seen=keep_seen)
    expected = names_of(TableModel(1).recommend(history, 5, keep_seen, ["i1"]))
    assert recommended(show(address, state)) == expected


def test_nothing_in_a_title_is_markup(address: str) -> None:
    page = show(address, State(tuple(ITEM_IDS), tuple(ITEM_IDS[:3]), k=100, keep_seen=True), q="<script>alert(2)")
    assert "alert(1)</script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; Co" in page
    assert "<script>alert" not in page
    assert page.count("<script") == 1


def test_every_answer_forbids_other_hosts(address: str) -> None:
    for path in ("/", "/matches?q=alien", "/style.css", "/explorer.js"):
        answer = get(address, path)
        policy = answer.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'")
        assert "http" not in policy
        assert "unsafe" not in policy
        assert not re.findall(r"(?:src|href|action|url\()=?['\"]?(?:https?:)?//", answer.text)
        assert " style=" not in answer.text
        assert not re.search(r"<[^>]* on\w+=", answer.text)


def test_a_foreign_host_name_is_refused(address: str) -> None:
    answer = requests.get(address, headers={"Host": "attacker.example"}, timeout=30)
    assert answer.status_code == 400
    assert "Alien" not in answer.text


@pytest.mark.parametrize("item_id", ITEM_IDS)
def test_any_item_can_be_added_excluded_and_taken_back(address: str, item_id: str) -> None:
    code = urllib.parse.quote(item_id, safe="")
    assert act(address, State(), f"add={code}") == State((item_id,))
    twice = act(address, State((item_id, "i0")), f"add={code}")
    assert twice == State((item_id, "i0", item_id)), "the items before it survive the form"
    assert act(address, twice, "remove=0") == State(("i0", item_id))
    excluded = act(address, State(k=20), f"exclude={code}")
    assert excluded == State(excluded=(item_id,), k=20)
    assert (TITLES[item_id] or item_id) not in recommended(show(address, excluded))
    assert act(address, excluded, f"allow={code}") == State(k=20)


def test_enter_in_the_search_adds_the_best_match(address: str) -> None:
    page = show(address, State())
    assert re.search(r'<button[^>]*form="state"[^>]*>', page)[0].count('value="add"'), "the first button is the default"
    assert act(address, State(("i2",)), "add", q="ALIENS") == State(("i2", "i1"))
    assert act(address, State(("i2",)), "add", q=" ") == State(("i2",))
    answer = get(address, "/act", h="i2", do="add", q="<nothing>")
    assert "No item matches “&lt;nothing&gt;”." in answer.text
    assert answer.text.count("Amélie") > 1, "the state stays"


def test_a_search_shows_its_matches(address: str) -> None:
    matches = get(address, "/matches", q="alien").text
    assert re.findall(r'aria-label="Add ([^"]*)"', matches) == ["Alien (1979)", "Aliens (1986)", "The Alien Mind"]
    assert "3 matches; Enter adds the first" in matches
    assert "0 matches" in get(address, "/matches", q="zzz").text
    page = get(address, "/act", do="search", q="mind").text
    assert 'value="add=i9"' in page.partition('id="matches"')[2].partition("</div>")[0]


@pytest.mark.parametrize(
    "action", ["", "remove=9", "remove=x", "remove=", "nothing=1", "add=", "allow=zzz", "remove=-1"]
)
def test_actions_without_sense_change_nothing(address: str, action: str) -> None:
    assert act(address, State(("i0", "i1")), action) == State(("i0", "i1"))


def test_attention_popularity_and_reasons(address: str) -> None:
    page = show(address, State(("unknown", "i0", "i1"), k=5))
    assert re.findall(r"attention ([0-9.]+)%", page) == ["66.7", "33.3"], "newest first; none of an unknown item"
    assert "unknown to the model, ignored" in page
    model, (best, score), *_ = TableModel(1), *TableModel(1).recommend(["i0", "i1"], 5)
    effects = {seen: model.table[ITEM_IDS.index(seen), ITEM_IDS.index(best)] for seen in ("i0", "i1")}
    first = page.partition('<ol class="recommended">')[2].partition('class="buttons"')[0]
    assert f"score {score:.3f}" in first
    assert {f"{effect:+.3f}" for effect in effects.values()} <= set(re.findall(r">([+-][0-9.]+)</span>", first))
    main = max(effects, key=lambda seen: effects[seen])
    assert (f'because of <span class="title">{TITLES[main]}' in first) == (effects[main] > 0)
    assert "90 events, #1" in show(address, State(k=5))
    assert "no training event" in show(address, State(k=100))


def test_a_test_user_with_the_truth(address: str) -> None:
    page = get(address, "/user", user=" u/1 & ", k=20).text
    assert "Test user" in page
    assert "took next: <mark>" in page
    rank = names_of(TableModel(1).recommend(["i0", "i1"], 100)).index("Amélie") + 1
    assert f"rank <strong>{rank}</strong> of all items" in page
    assert "the first 3 of 5 test users" in page
    assert "with another history" not in page
    emptied = act(address, act(address, State(user="u/1 &"), "remove=0"), "remove=0")
    assert emptied == State((), user="u/1 &")
    assert "with another history" in show(address, emptied)
    assert act(address, emptied, "clear") == State()
    assert "seen items are not recommended" in show(address, State(user="u2"))
    assert "18 older" in show(address, State(user="u2"))
    assert "an item that the records do not name" in show(address, State(user="u3"))
    assert "No such test user" in show(address, State(user="<nobody>"))


def test_a_random_user(address: str) -> None:
    answers = [get(address, "/random", x="i1", seen=1) for _ in range(30)]
    states = [State.from_query(urllib.parse.parse_qsl(urllib.parse.urlsplit(each.url).query)) for each in answers]
    assert {state.user for state in states} == set(USERS.users)
    assert {(state.excluded, state.keep_seen) for state in states} == {(("i1",), True)}


def test_two_versions_side_by_side(compared: str) -> None:
    page = show(compared, State(("i0", "i1"), k=5, user="u/1 &"))
    lists = [[item_id for item_id, _ in TableModel(seed).recommend(["i0", "i1"], 5)] for seed in (1, 2)]
    shared = set(lists[0]) & set(lists[1])
    assert page.count(f"{len(shared)} of 5 are in both lists.") == 2
    assert page.count("only here") == 2 * (5 - len(shared))
    places = [lists[1].index(item_id) + 1 for item_id in lists[0] if item_id in shared]
    first = page.partition('<ol class="recommended">')[2].partition("</ol>")[0]
    assert re.findall(r"other list: ([0-9]+)", first) == list(map(str, places))
    assert page.count("of all items</p>") == 2


def test_a_version_without_attention_says_so() -> None:
    for address in served(Explored((TableModel(has_attention=False),), Catalogue(VOCABULARY))):
        assert "was exported without attention" in show(address, State(("i0",)))


def test_a_model_that_fails_is_named_and_the_page_stays() -> None:
    model = TableModel(fails="UNAVAILABLE: <no> route")
    for address in served(Explored((model,), Catalogue(VOCABULARY))):
        page = get(address, h="i0", status=502).text
        assert "The model gave no answer: UNAVAILABLE: &lt;no&gt; route" in page
        assert "Alien (1979)" in page
        assert "without attention" not in page
        model.fails = ""
        assert recommended(show(address, State(("i0",))))


def test_without_a_catalogue_items_are_added_by_id() -> None:
    for address in served(Explored((TableModel(),), Catalogue(None))):
        page = show(address, State())
        assert "Item id" in page
        assert "unknown: add them by id" in page
        assert act(address, State(), "add", q="i0") == State(("i0",))
        assert recommended(show(address, State(("i0",), k=5))) == [
            each for each, _ in TableModel().recommend(["i0"], 5)
        ]
        assert get(address, "/random").url.rstrip("/") == address


def test_long_histories_and_long_addresses(address: str) -> None:
    history = tuple(ITEM_IDS[number % 9] for number in range(MAX_HISTORY))
    page = show(address, State(history, k=5))
    assert f"at most {MAX_HISTORY:,} items" in page
    assert len(page) < 1_500_000
    assert act(address, State(history), "add=i9").history == (*history[1:], "i9")


def test_requests_at_the_same_time_get_their_own_answers(address: str) -> None:
    states = [State((item_id,), k=5) for item_id in ITEM_IDS] * 8
    with ThreadPoolExecutor(16) as threads:
        pages = list(threads.map(lambda state: recommended(show(address, state)), states))
    assert pages == [names_of(TableModel(1).recommend(state.history or (), 5)) for state in states]
