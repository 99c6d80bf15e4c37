"""Checkpoints by their names on the hub: from a cache with no hub in reach, and from a hub here."""

import hashlib
import os
import socket
import subprocess
import sys
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import tiny_models
import transformers

ROOT = Path(__file__).parents[2]
HERE = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "benchmarks")]
A, B = "a" * 40, "b" * 40

ASKS = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[1:4]
from tiny_models import checkpoint
from benchmarks.usage import UsageError
branch = Path(sys.argv[4])
newest = checkpoint("them/tiny")
assert newest.check("newest") == 8
print(newest.checksum())
branch.write_text("b" * 40)  # the branch moves on
print(newest.load("newest").model.lm_head.weight[0, 0].item())
print(newest.checksum())
pinned = checkpoint("them/tiny", revision="b" * 40)
assert pinned.check("pinned") == 8
print(pinned.checksum(), pinned.load("pinned").model.lm_head.weight[0, 0].item())
for missing in (checkpoint("them/nothing"), checkpoint("them/tiny", revision="v2")):
    try:
        missing.check("missing")
    except UsageError as error:
        print(error)
"""


def asked(branch, home, **environment):
    """What a process of its own prints, and what it says on stderr."""
    settings = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    ended = subprocess.run(
        [sys.executable, "-c", ASKS, *HERE, str(branch)],
        env={**settings, "HF_HOME": str(home), **environment},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines(), ended.stderr


@pytest.fixture(scope="module")
def states(tmp_path_factory):
    """Two states of one repository: a folder and a weight of each."""
    found = {}
    for seed, commit in enumerate((A, B)):
        folder = tiny_models.write("llava", tmp_path_factory.mktemp("hub") / commit, seed=seed)
        model = transformers.AutoModelForImageTextToText.from_pretrained(folder)
        found[commit] = folder, model.lm_head.weight[0, 0].item()
    return found


@pytest.fixture
def nowhere():
    """Where nobody answers."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@pytest.mark.parametrize("offline", ["0", "1"])
def test_a_cache_is_read_at_the_commit_that_is_recorded_whether_or_not_offline_is_said(
    offline, states, nowhere, tmp_path
):
    """From a cache as huggingface_hub leaves it; retries of each file would take minutes."""
    cached = tmp_path / "hub" / "models--them--tiny"
    for commit, (folder, _) in states.items():
        (cached / "snapshots").mkdir(parents=True, exist_ok=True)
        (cached / "snapshots" / commit).symlink_to(folder)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(A)
    printed, said = asked(cached / "refs" / "main", tmp_path, HF_ENDPOINT=nowhere, HF_HUB_OFFLINE=offline)
    recorded, loaded, again, pinned, nothing, untagged = printed
    assert "Retrying" not in said
    assert recorded == again == f"commit:{A}"
    assert float(loaded) == states[A][1] != states[B][1]
    assert pinned.split() == [f"commit:{B}", repr(states[B][1])]
    assert nothing == (
        "model missing: no configuration at them/nothing: the hub does not answer and the cache has none; "
        "on a machine without network fetch it elsewhere with `hf download them/nothing` "
        "and set HF_HUB_OFFLINE=1"
    )
    assert "`hf download them/tiny --revision v2`" in untagged


def test_a_cache_without_the_weights(states, nowhere, tmp_path):
    snapshot = tmp_path / "hub" / "models--them--tiny" / "snapshots" / A
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").symlink_to(states[A][0] / "config.json")
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text(A)
    with pytest.raises(
        AssertionError, match=r"model newest: them/tiny lacks its weights: no model.safetensors"
    ):
        asked(tmp_path / "branch", tmp_path, HF_ENDPOINT=nowhere)


class Hub(BaseHTTPRequestHandler):
    """Files of them/tiny by revision, with the headers of the hub."""

    def __init__(self, states, branch, *rest):
        self.states, self.branch = states, branch
        super().__init__(*rest)

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, *, body):
        if self.path.startswith("/api/models/them/tiny/tree/"):  # of a folder that is not there
            self.refuse("EntryNotFound")
            return
        _, *repository, _, revision, name = [*self.path.split("/", 5), "", "", ""][:6]
        commit = {"main": self.branch.read_text(), A: A, B: B}.get(revision)
        if repository != ["them", "tiny"] or commit is None:
            self.refuse("RevisionNotFound" if repository == ["them", "tiny"] else "RepoNotFound")
            return
        file = self.states[commit][0] / name
        if not file.is_file():
            self.refuse("EntryNotFound", commit)
            return
        content = file.read_bytes()
        self.send_response(200)
        self.send_header("X-Repo-Commit", commit)
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def refuse(self, code, commit=""):
        self.send_response(404)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Repo-Commit", commit)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def test_a_hub_that_answers_is_read_at_one_commit_and_the_cache_serves_afterwards(states, nowhere, tmp_path):
    branch = tmp_path / "branch"
    branch.write_text(A)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Hub, states, branch)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        printed, _ = asked(
            branch, tmp_path, HF_ENDPOINT=f"http://127.0.0.1:{server.server_port}", HF_HUB_DISABLE_XET="1"
        )
        server.shutdown()
    recorded, loaded, again, pinned, nothing, untagged = printed
    assert recorded == again == f"commit:{A}"
    assert float(loaded) == states[A][1]
    assert pinned.split() == [f"commit:{B}", repr(states[B][1])]
    assert "them/nothing is not a local folder and is not a valid model identifier" in nothing
    assert "v2 is not a valid git identifier" in untagged
    later, said = asked(branch, tmp_path, HF_ENDPOINT=nowhere)
    assert "Retrying" not in said
    assert later[:4] == printed[:4]
