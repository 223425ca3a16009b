"""A notebook as an app, served by a process of its own."""

import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


@contextmanager
def serve(notebook: str, arguments: Sequence[str] = (), timeout: float = 300) -> Iterator[str]:
    """Inside, `notebooks/{notebook}.py` is served with `arguments`, by `marimo run`; gives its address.

    Raises:
        FileNotFoundError: there is no such notebook; an installed package has none, a checkout has.
        RuntimeError: the server ended, or did not answer in `timeout` seconds; with what it printed.
    """
    path = NOTEBOOKS / f"{notebook}.py"
    if not path.is_file():
        raise FileNotFoundError(f"no notebook {path}")
    port = _free_port()
    command = [
        sys.executable,
        "-m",
        "marimo",
        "run",
        str(path),
        "--headless",
        "--no-token",
        "--show-tracebacks",
        "--port",
        str(port),
    ]
    with tempfile.TemporaryFile("w+") as log:
        server = subprocess.Popen([*command, "--", *arguments], stdout=log, stderr=subprocess.STDOUT)
        try:
            address = f"http://127.0.0.1:{port}"
            _wait(server, f"{address}/health", timeout)
            yield address
        except TimeoutError as error:
            log.seek(0)
            raise RuntimeError(f"no app of {path.name}: {error}\n{log.read()}") from error
        finally:
            server.terminate()
            try:
                server.wait(timeout=10)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _wait(server: "subprocess.Popen[bytes]", address: str, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise TimeoutError(f"the server ended with exit code {server.returncode}")
        try:
            urllib.request.urlopen(address, timeout=timeout).close()
            return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.05)
    raise TimeoutError(f"no answer in {timeout:g} s")
