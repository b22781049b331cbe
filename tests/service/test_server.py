"""A real server: its answers, together and alone, requests in flight at its end, its token."""

import json
import os
import re
import signal
import threading
import time
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import requests

from src.gate import Gate
from src.serve import read_token
from src.service.engine import Row
from src.service.facts import Facts
from src.service.meters import Meters
from src.service.stream import Stream
from tests.service.conftest import Running, running

SECRET = "a-token-of-the-tests"


def test_every_form_of_a_request_gets_the_decision_of_the_gate(
    server: Running, gate_file: Path, digit: bytes
) -> None:
    gate = Gate.load(gate_file)
    verdict = gate(digit)
    coded = b64encode(digit).decode()
    answers = [
        server.post(files={"image": digit}),
        server.post(data=digit, headers={"Content-Type": "image/png"}),
        server.post(json={"image": coded}),
        server.post(json={"images": [coded], "detector": "featurenorm"}),
    ]
    for answer in answers:
        assert answer.status_code == 200, answer.text
        (row,) = answer.json()["images"]
        assert row["class"] == verdict.label
        assert row["probability"] == pytest.approx(verdict.probability, rel=1e-4)
        assert row["p_value"] == verdict.p_value
        assert row["score"] == pytest.approx(verdict.score, rel=1e-5)
        assert row["decision"] == ("OOD" if verdict.is_ood else "ID")
        facts = answer.json()
        assert (facts["detector"], facts["alpha"]) == ("featurenorm", 0.05)
        assert facts["digest"] == gate.digest


def test_one_broken_image_of_eight_fails_alone_and_the_order_is_kept(
    server: Running, digits: list[bytes]
) -> None:
    files = [("image", (f"{k}.png", each)) for k, each in enumerate(digits[:8])]
    whole = server.post(files=files).json()["images"]
    files[3] = ("image", ("3.png", digits[3][:-40]))
    answer = server.post(files=files)
    assert answer.status_code == 200
    rows = answer.json()["images"]
    assert re.search("^expected a picture that can be decoded", rows[3].pop("error"))
    assert rows[3] == {}
    for row, before in zip(rows[:3] + rows[4:], whole[:3] + whole[4:], strict=True):
        assert row["score"] == pytest.approx(before["score"], rel=1e-5)
        assert row["decision"] == before["decision"]


def test_alpha_decides_from_the_same_p_value(server: Running, digits: list[bytes]) -> None:
    files = [("image", each) for each in digits[:9]]
    p_values = [row["p_value"] for row in server.post(files=files).json()["images"]]
    for alpha in (0.01, sorted(p_values)[4]):
        answer = server.post(files=files, data={"alpha": str(alpha)}).json()
        assert answer["alpha"] == alpha
        decisions = [row["decision"] for row in answer["images"]]
        assert decisions == ["OOD" if p <= alpha else "ID" for p in p_values]
    assert "OOD" in decisions


def test_many_clients_get_their_own_answers(
    server: Running, gate_file: Path, digits: list[bytes]
) -> None:
    expected = Gate.load(gate_file)(digits)

    def ask(content: bytes) -> float:
        return float(server.post(files={"image": content}).json()["images"][0]["score"])

    with ThreadPoolExecutor(16) as pool:
        scores = list(pool.map(ask, digits))
    assert scores == pytest.approx([verdict.score for verdict in expected], rel=1e-4)


def test_info_tells_what_the_gate_is_and_no_path(server: Running, gate_file: Path) -> None:
    gate, told = Gate.load(gate_file), server.get("/info")
    facts = told.json()["model"]
    assert facts["classes"] == list(gate.classes)
    assert facts["bound"] == gate.calibration.bound
    assert (facts["images"], facts["shape"]) == (100, [1, 24, 24])
    assert facts["digest"] == gate.digest
    assert str(gate_file.parent) not in told.text


def test_prometheus_reads_what_happened(server: Running, digit: bytes, photograph: bytes) -> None:
    def value(name: str) -> float:
        found = re.search(rf"^{re.escape(name)} (\S+)$", server.get("/metrics").text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    names = [
        'gate_images_total{decision="error"}', 'gate_requests_total{code="200"}',
        "gate_p_value_count", "gate_request_seconds_count",
    ]  # fmt: skip
    before = [value(name) for name in names]
    server.post(files=[("image", digit), ("image", photograph), ("image", b"nothing")])
    after = [value(name) for name in names]
    change = [b - a for a, b in zip(before, after, strict=True)]
    assert change == [1, 1 + len(names), 2, 1]  # each look at the meters is a request, too
    assert "python_gc" not in server.get("/metrics").text


def test_nothing_is_stored_framed_or_guessed(server: Running) -> None:
    for path in ("/", "/info", "/nowhere"):
        headers = server.get(path).headers
        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "server" not in headers


def test_sigterm_lets_requests_in_flight_be_answered_and_takes_no_more(
    gate_file: Path, user: dict[str, str], digits: list[bytes]
) -> None:
    answers: list[int] = []
    coded = [b64encode(each).decode() for each in digits] * 10

    with running(gate_file, user, "limits.max_images=1000") as server:

        def ask() -> None:
            answers.append(server.post(json={"images": coded}).status_code)

        clients = [threading.Thread(target=ask) for _ in range(3)]
        for client in clients:
            client.start()
        while "gate_requests_waiting 3" not in server.get("/metrics").text and not answers:
            time.sleep(0.01)
        assert len(answers) < 3  # some are in flight
        os.kill(server.process.pid, signal.SIGTERM)
        for client in clients:
            client.join()
        assert answers == [200, 200, 200]
        server.process.wait()
        with pytest.raises(requests.ConnectionError):
            server.get("/health")


def test_a_token_is_asked_for_everywhere_but_by_probes(
    gate_file: Path, user: dict[str, str], digit: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "token"
    path.write_text(SECRET + "\n")
    with running(gate_file, user, f"token_file={path}") as server:
        for headers in (
            {}, {"Authorization": "Bearer"}, {"Authorization": "Bearer wrong"},
            {"Authorization": f"Digest {SECRET}"}, {"Authorization": "Basic !"},
            {"Authorization": f"Bearer {SECRET}x"}, {"Authorization": "Bearer \xe9"},
        ):  # fmt: skip
            for answer in (
                server.post(files={"image": digit}, headers=headers),
                server.get("/", headers=headers),
                server.get("/metrics", headers=headers),
                server.get("/nowhere", headers=headers),
            ):
                assert answer.status_code == 401
                assert re.search("^expected the token", answer.json()["error"])
                assert "Bearer" in answer.headers["WWW-Authenticate"]
        bearer = {"Authorization": f"Bearer {SECRET}"}
        assert server.post(files={"image": digit}, headers=bearer).status_code == 200
        assert server.get("/", auth=("anybody", SECRET)).status_code == 200  # a browser's way


def test_the_token_comes_from_a_file_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GATE_TOKEN", raising=False)
    assert read_token(None) is None
    monkeypatch.setenv("GATE_TOKEN", "one")
    assert read_token(None) == "one"
    (tmp_path / "token").write_text(" two\n")
    assert read_token(str(tmp_path / "token")) == "two"
    with pytest.raises(ValueError, match=r"expected a file with a token.*token_file="):
        read_token(str(tmp_path / "missing"))


def position(server: Running) -> float:
    """How many images the watch has seen."""
    found = re.search(r"^gate_watch_images (.*)$", server.get("/metrics").text, re.MULTILINE)
    assert found
    return float(found[1])


def is_there(group: int) -> bool:
    """Whether any process of a group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_watch_goes_on_after_a_kill_and_ends_whole(
    gate_file: Path, user: dict[str, str], digits: list[bytes], tmp_path: Path
) -> None:
    state = tmp_path / "watch.json"
    watch = (f"watch={state}", "delta=0.05")
    files = [("image", each) for each in digits[:8]]
    broken = [("image", b"none"), ("image", digits[0])]
    with running(gate_file, user, *watch, code=-signal.SIGKILL) as server:
        server.post(files=broken)  # of two images, one counts
        assert position(server) == 1
        time.sleep(1.5)  # the state is written once a second
        server.post(files=files)
        assert position(server) == 9
        os.kill(server.process.pid, signal.SIGKILL)  # the first process alone, as a user would
        server.process.wait()
        while is_there(server.process.pid):  # or the test times out
            time.sleep(0.1)
    kept = json.loads(state.read_text())
    assert kept["watch"]["position"] == 9
    with running(gate_file, user, *watch) as server:
        server.post(files=files)
        assert position(server) == 17
        text = server.get("/metrics").text
        assert re.search(r"^gate_watch_log10_capital{martingale=\"restart\"} -?\d", text, re.M)
        assert "gate_watch_alarm 0.0" in text
    assert json.loads(state.read_text())["watch"]["position"] == 17  # of a stop, nothing is lost


def test_a_state_of_another_watch_is_refused(gate_file: Path, tmp_path: Path) -> None:
    facts, state = Facts.of(Gate.load(gate_file)), tmp_path / "watch.json"
    Stream(facts, Meters(), state, 0.01)
    Stream(facts, Meters(), state, 0.01)
    with pytest.raises(ValueError, match=r"at delta 0\.05 in .*at delta 0\.01"):
        Stream(facts, Meters(), state, 0.05)
    with pytest.raises(ValueError, match="got that of gate"):
        Stream(replace(facts, digest="another"), Meters(), state, 0.01)
    state.write_text("{}")
    with pytest.raises(ValueError, match="name another file"):
        Stream(facts, Meters(), state, 0.01)
    with pytest.raises(ValueError, match=r"within \(0, 1\)"):
        Stream(facts, Meters(), tmp_path / "new.json", 2.0)


def test_a_stream_of_ood_images_raises_the_alarm(
    gate_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stream = Stream(Facts.of(Gate.load(gate_file)), Meters(), tmp_path / "watch.json", 0.01)
    stream.see([Row(error="broken")])
    stream.see([Row(score=-1e9, p_value=0.01)] * 60)
    assert stream.watch.alarm is not None
    assert "alarm: the stream has changed, at image" in caplog.text
    assert b"gate_watch_alarm 1.0" in stream.meters.text()
