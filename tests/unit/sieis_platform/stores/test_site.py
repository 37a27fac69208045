"""A site is replaced as a whole: by several at once, by one that is killed, and whatever lay there before."""

import multiprocessing
import os
import signal
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from sieis_platform.stores.site import page, publish

#: A child begins with nothing of this process: no threads, no locks held by them.
FRESH = multiprocessing.get_context("spawn")


def _write(draft: Path, text: str) -> None:
    (draft / "deep").mkdir()
    (draft / "index.html").write_text(text)
    (draft / "deep" / "page.html").write_text(text)


def _publish_often(folder: Path, text: str) -> None:
    for _ in range(30):
        publish(folder, lambda draft: _write(draft, text))


def _publish_and_hang(folder: Path, begun: Event) -> None:
    def write(draft: Path) -> None:
        _write(draft, "half")
        begun.set()
        signal.pause()

    publish(folder, write)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_what_is_published_is_shown_and_the_version_before_stays_for_its_readers(tmp_path: Path) -> None:
    assert page(tmp_path / "site", "index.html") is None
    shown = [publish(tmp_path / "site", lambda draft, text=text: _write(draft, text)).resolve() for text in "abc"]
    assert page(tmp_path / "site", "index.html") == b"c"
    assert page(tmp_path / "site", "deep/page.html") == b"c"
    assert names(tmp_path / "site") == {"current", "lock", shown[1].name, shown[2].name}


def test_several_at_once_leave_one_whole_site(tmp_path: Path) -> None:
    folder = tmp_path / "site"
    publish(folder, lambda draft: _write(draft, "a"))
    several = [FRESH.Process(target=_publish_often, args=(folder, text)) for text in "ab"]
    for one in several:
        one.start()
    while any(one.is_alive() for one in several):
        assert page(folder, "index.html") in (b"a", b"b")
    for one in several:
        one.join()
        assert one.exitcode == 0
    assert page(folder, "index.html") == page(folder, "deep/page.html")
    assert len(names(folder)) == 4


def test_one_that_is_killed_leaves_the_site_that_was_there_and_the_next_sweeps(tmp_path: Path) -> None:
    folder = tmp_path / "site"
    publish(folder, lambda draft: _write(draft, "whole"))
    begun = FRESH.Event()
    killed = FRESH.Process(target=_publish_and_hang, args=(folder, begun))
    killed.start()
    assert begun.wait(60)
    assert killed.pid is not None
    os.kill(killed.pid, signal.SIGKILL)
    killed.join()
    assert page(folder, "index.html") == b"whole"
    assert len(names(folder)) == 4  # its draft
    (folder / "20260101T000000-00000000.link").symlink_to("nowhere")  # killed before the swap
    publish(folder, lambda draft: _write(draft, "next"))
    assert page(folder, "index.html") == b"next"
    assert len(names(folder)) == 4  # the one before, no draft


def test_a_site_that_cannot_be_made_leaves_the_one_that_was_there(tmp_path: Path) -> None:
    def fails(draft: Path) -> None:
        (draft / "index.html").write_text("half")
        raise OSError("no space left")

    publish(tmp_path / "site", lambda draft: _write(draft, "whole"))
    with pytest.raises(OSError, match="no space"):
        publish(tmp_path / "site", fails)
    assert page(tmp_path / "site", "index.html") == b"whole"


def test_what_an_earlier_release_laid_there_goes(tmp_path: Path) -> None:
    _write(tmp_path, "old")
    publish(tmp_path, lambda draft: _write(draft, "new"))
    assert page(tmp_path, "index.html") == b"new"
    assert len(names(tmp_path)) == 3


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "deep",
        "/etc/passwd",
        "../secret",
        "deep/../index.html",
        "../../secret",
        "index.html\0",
        "x" * 9999,
    ],
)
def test_only_the_names_of_its_pages_lead_anywhere(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_text("secret")
    publish(tmp_path / "site", lambda draft: _write(draft, "a"))
    assert page(tmp_path / "site", name) is None
