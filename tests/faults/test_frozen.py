"""An archive consumer frozen with a commit in its hand, on all servers: what it commits late is refused, and told."""

import signal
import subprocess

import psutil
import pytest

from tests.faults.full import all_stored_once, errors
from tests.faults.harness import Platform, Sender, eventually, wait_until_archived

pytestmark = [pytest.mark.services, pytest.mark.drill, pytest.mark.timeout(600)]


def _freezes(process: subprocess.Popen[bytes]) -> None:
    eventually(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED, "the owner frozen", 120)


@pytest.mark.parametrize("new_owner_commits", [True, False], ids=["another was faster", "nobody else was there"])
def test_a_commit_of_an_owner_frozen_past_its_session_is_made_once(full: Platform, new_owner_commits: bool) -> None:
    incarnation = full.incarnation()
    full.start("consume", "--sink", "hot")
    with Sender(full.settings) as sender:
        frozen = full.start("consume", "--sink", "archive", crash_at="archive.before_commit:3:stop")
        its_metrics = full.metrics_port
        _freezes(frozen)
        if new_owner_commits:
            full.start("consume", "--sink", "archive")
            # Beyond what lies in the frozen one's hand: it had read no more than was sent so far.
            wait_until_archived(full.settings, sender.ends(), incarnation)
        frozen.send_signal(signal.SIGCONT)
        if new_owner_commits:
            full.metrics_port = its_metrics
            eventually(
                lambda: errors(full, "archive", "PositionMovedError") >= 1,
                "the late commit refused, because the position had moved",
            )
        sent = len(sender.sent)
        eventually(lambda: len(sender.sent) > sent + 1_500, "sent on")
    all_stored_once(full, sender, incarnation)
    assert frozen.poll() is None, full.log.read_text()[-4_000:]
