"""The receiver of alerts: the command hears each one once, and nobody without the word can make it tell anything."""

import json
import sys
import threading
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

from flows.alerting.receiver import Receiver
from flows.home import Home

SCRIPT = """
import json, os, sys
alert = json.load(sys.stdin)
assert os.environ["ALERT_TEXT"] == alert["text"]
with open(sys.argv[1], "a") as file:
    file.write(json.dumps(alert) + "\\n")
sys.exit(int(alert["state"] == "Unheard"))
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("LEVELMATCH_HOME", str(tmp_path / "home"))
    return Home.of().make()


@contextmanager
def listening(home, *command):
    receiver = Receiver(command, home)
    thread = threading.Thread(target=receiver.serve)
    thread.start()
    try:
        yield receiver.url
    finally:
        receiver.stop()
        thread.join(10)


@pytest.fixture
def told(home, tmp_path):
    """The address, and what the command was told so far."""
    script, log = tmp_path / "tell.py", tmp_path / "told"
    script.write_text(SCRIPT)
    log.touch()
    with listening(home, sys.executable, str(script), str(log)) as url:
        yield url, lambda: [json.loads(line) for line in log.read_text().splitlines()]


def post(url, content):
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data=raw), timeout=10) as answer:  # noqa: S310 - loopback
        return answer.status


def test_an_alert_is_told_once_however_often_it_comes(told):
    url, heard = told
    first = {"text": "m33: Late. $(rm -rf /); 'x'", "state": "Late", "program": "m33", "event": "a"}
    for alert in (first, first, {**first, "event": "b", "state": "Unheard"}, first):
        assert post(url, alert) == 202
    last = {"text": "the last", "event": "c"}
    post(url, last)
    wait_for(lambda: len(heard()) >= 3)
    assert [each["event"] for each in heard()] == ["a", "b", "c"]
    assert heard()[0]["text"] == first["text"]
    assert heard()[2] == {**dict.fromkeys(heard()[2], ""), **last}


def wait_for(condition):
    pause = threading.Event()
    for _ in range(2000):
        if condition():
            return
        pause.wait(0.05)
    pytest.fail("not in a hundred seconds")


@pytest.mark.parametrize(
    ("path", "content", "code"),
    [("/", {"text": "x"}, 404), ("/guessed", {"text": "x"}, 404), (None, b"[]", 400), (None, b"{", 400)],
)
def test_what_is_no_alert_or_does_not_know_the_word_is_refused(told, path, content, code):
    url, heard = told
    address = url if path is None else url.rpartition("/")[0] + path
    with pytest.raises(urllib.error.HTTPError) as refused:
        post(address, content)
    assert refused.value.code == code
    refused.value.close()
    assert not heard()


def test_the_word_stays_and_is_its_owners(home):
    urls = []
    for _ in range(2):
        with listening(home, "true") as url:
            urls.append(url.rpartition("/")[2])
    assert urls[0] == urls[1]
    assert len(urls[0]) >= 32
    assert (home.root / "alerts-word").stat().st_mode & 0o077 == 0


def test_a_command_that_is_missing_is_logged(home, caplog):
    receiver = Receiver(["/no/such/command"], home)
    try:
        assert receiver.hear({"text": "x", "event": "1"})
        assert "nobody was told" in caplog.text
    finally:
        receiver._server.server_close()
    assert Path(home.root).is_dir()
