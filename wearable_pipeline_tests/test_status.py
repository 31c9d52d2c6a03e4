import io
from datetime import UTC, datetime

from rich.console import Console

from wearable_pipeline.status import SHOWN_USERS, StatusReport, UserLine

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


def line(number: int, age: float | None = 60.0, error: str | None = None) -> UserLine:
    return UserLine(f"user-{number:03}", "nightscout", "connected", None, age, 0, error)


def shown(users: list[UserLine]) -> str:
    out = io.StringIO()
    StatusReport(NOW, "lake", "registry", users).render(Console(file=out, width=200))
    return out.getvalue()


def test_of_very_many_users_those_in_trouble_are_shown() -> None:
    users = [line(number) for number in range(SHOWN_USERS + 20)]
    users += [line(900, error="asked to slow down"), line(901, age=9_000.0), line(902, age=None)]
    text = shown(users)
    assert all(f"user-{number}" in text for number in (900, 901, 902))
    assert text.count("user-") == SHOWN_USERS
    # 70 ordinary ones and three in trouble, of which 50 are shown.
    assert "23 more users" in text


def test_few_users_are_all_shown_in_their_order() -> None:
    text = shown([line(2), line(1, error="refused")])
    assert text.index("user-002") < text.index("user-001")
    assert "more users" not in text
