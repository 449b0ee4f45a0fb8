"""How far a pull is, told to people: seldom enough that each word is worth a write to the API server."""

from __future__ import annotations

from zos.drivers.imageprogress import Progress


def test_a_word_a_second_and_only_for_what_has_gone_on() -> None:
    now = 0.0
    said: list[str] = []
    progress = Progress(lambda: now)
    progress.dirty = lambda: said.append(progress.words("image/x"))
    for tick in range(400):
        now = tick * 0.25
        progress.tell("image/x", "pulling", tick << 20, 400 << 20)
    assert said[:3] == [
        "pulling, 0 % (0.0 MiB of 400.0 MiB)",
        "pulling, 5 % (20.0 MiB of 400.0 MiB)",
        "pulling, 10 % (40.0 MiB of 400.0 MiB)",
    ]
    assert len(said) == 20
    assert progress.fetched == 399 << 20
    progress.over("image/x")
    assert (progress.words("image/x"), progress.under_way) == ("", {})


def test_what_hardly_goes_on_is_told_now_and_then() -> None:
    now = 0.0
    said: list[float] = []
    progress = Progress(lambda: now)
    progress.dirty = lambda: said.append(now)
    for tick in range(100):
        now = float(tick)
        progress.tell("image/x", "pulling", tick, 1 << 30)
    assert said == [0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0]


def test_where_the_size_is_not_known_bytes_are_told() -> None:
    now = 0.0
    progress = Progress(lambda: now)
    progress.tell("image/x", "downloading", 0, 0)
    assert progress.words("image/x") == "downloading"
    now = 1.0
    progress.tell("image/x", "downloading", 3 << 20, 0)
    assert progress.words("image/x") == "downloading, 3.0 MiB"
