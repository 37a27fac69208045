"""Something stands before InfluxDB and answers in its place: too busy for a while, or not InfluxDB at all."""

from typing import Final

import pytest

from tests.faults.full import all_stored_once, errors, goes_on, written
from tests.faults.harness import Platform, Sender, eventually
from tests.front import Answer, Front
from tools.services.instance import Instance

pytestmark = [pytest.mark.services, pytest.mark.drill, pytest.mark.timeout(600)]

PAUSE_SECONDS: Final = 2
#: As InfluxDB Cloud and proxies with a limit answer; 503 is a server that is overloaded.
BUSY: Final = [
    Answer(429, '{"code":"too many requests","message":"slow down"}', {"Retry-After": str(PAUSE_SECONDS)}),
    Answer(503, '{"code":"unavailable","message":"overloaded"}', {"Retry-After": str(PAUSE_SECONDS)}),
    Answer(429, "<html>slow down</html>", {"Retry-After": str(PAUSE_SECONDS)}),
]
#: As nginx answers who speaks without TLS to a port that wants it.
NO_INFLUXDB: Final = Answer(400, "<html><title>400 The plain HTTP request was sent to HTTPS port</title></html>")


def test_a_busy_server_is_left_alone_as_long_as_it_asks_and_nothing_is_lost(full: Platform, influxdb: Instance) -> None:
    # So few that no write goes as two requests at once, of which the second may be on its way at a refusal.
    with Front(influxdb.address) as front, Sender(full.settings, rate=300) as sender:
        incarnation = full.incarnation()
        consumer = full.start("consume", influx_url=front.address, influx_gzip=True)
        goes_on(full, "hot")
        busy = list(BUSY)
        front.answers.extend(busy)
        eventually(lambda: not front.answers, "all three refusals taken")
        goes_on(full, "hot")
        sender.finish()
        all_stored_once(full, sender, incarnation)
        assert errors(full, "hot", "HotStoreUnavailableError") == len(busy)
        full.stop(consumer)
    refused = [number for number, write in enumerate(front.writes) if write.status != 204]
    assert [front.writes[number].status for number in refused] == [answer.status for answer in busy]
    for number in refused:
        pause = front.writes[number + 1].came - front.writes[number].answered
        assert pause >= PAUSE_SECONDS, f"asked again {pause:.2f} s after {front.writes[number]}"
    assert {write.encoding for write in front.writes} == {"gzip"}


def test_what_is_not_influxdb_stops_the_consumer_before_anything_is_lost(full: Platform, influxdb: Instance) -> None:
    with Front(influxdb.address) as front, Sender(full.settings) as sender:
        incarnation = full.incarnation()
        consumer = full.start("consume", influx_url=front.address)
        goes_on(full, "hot")
        front.always = NO_INFLUXDB
        eventually(lambda: consumer.poll() is not None, "the consumer's end")
        assert consumer.returncode not in (0, None)
        assert "answers 400 and is not InfluxDB" in full.log.read_text()
        refused = [write for write in front.writes if write.status != 204]
        assert len(refused) <= 2, "the batch was halved"  # the second: what is still unwritten when it stops
        front.always = None
        consumer = full.start("consume", influx_url=front.address)
        goes_on(full, "hot")
        assert full.metric("sieis_refused_total", sink="hot") == 0
        assert written(full, "hot") > 0
        sender.finish()
        all_stored_once(full, sender, incarnation)
        full.stop(consumer)
