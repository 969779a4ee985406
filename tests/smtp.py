"""A real SMTP server for tests, on a real socket, that fails at the given steps and records what it received."""

from __future__ import annotations

import base64
import hmac
import re
import socket
import socketserver
import ssl
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any, cast

# Key and certificate of the name `localhost`, signed by itself: worth nothing outside of these tests.
CERTIFICATE = Path(__file__).with_name("smtp_localhost.pem")

# The steps of one mail, in order. `content` comes before the mail is recorded, `accepted` after it is recorded and
# before the answer, `answered` after the answer.
STEPS = ("connect", "ehlo", "starttls", "auth", "mail", "rcpt", "data", "content", "accepted", "answered")
CUT = "cut"
HANG = "hang"
HANG_SECONDS = 60
_MESSAGE_ID = re.compile(rb"(?im)^message-id:\s*(<\S+>)")


@dataclass
class Fault:
    """What goes wrong at one step.

    Args:
        at: one of STEPS.
        do: CUT, HANG, or the answer to give.
        recipient: only for this address (`rcpt`), or for mails to it (`data` and later); `@example.org` is for all of
            a domain.
        times: how often; None is always.
    """

    at: str
    do: str
    recipient: str | None = None
    times: int | None = None

    def __post_init__(self) -> None:
        assert self.at in STEPS, f"a fault strikes at one of {', '.join(STEPS)}, not at {self.at!r}"

    def concerns(self, recipients: tuple[str, ...]) -> bool:
        """Whether it strikes a mail to these recipients."""
        if self.recipient is None:
            return True
        return any(email == self.recipient or email[email.find("@") :] == self.recipient for email in recipients)


@dataclass(frozen=True)
class Received:
    """A mail that the server has taken."""

    sender: str
    recipients: tuple[str, ...]
    content: bytes
    at: float

    @property
    def message(self) -> EmailMessage:
        """The mail, parsed."""
        return cast(EmailMessage, message_from_bytes(self.content, policy=policy.default))  # type: ignore[arg-type]

    @property
    def message_id(self) -> str:
        """Its Message-ID, which is found without parsing the mail."""
        found = _MESSAGE_ID.search(self.content)
        assert found is not None, "the mail has no Message-ID"
        return found[1].decode()

    def body(self, subtype: str) -> str:
        """Its `plain` or `html` part."""
        part = self.message.get_body((subtype,))  # type: ignore[arg-type]
        assert part is not None, f"the mail has no {subtype} part"
        return cast(str, part.get_content())


class _Cut(Exception):
    """The connection is to be dropped without a word."""


@dataclass
class SmtpServer:
    """Listens on a port of 127.0.0.1 between `start` and `stop`.

    Args:
        offers_tls: STARTTLS is offered.
        speaks_tls: TLS from the first byte.
        login: user name and password to insist on.
        mechanisms: the ways to log in that are offered.
        admits: how many connections are served at the same time; the others are refused with 421 at `refuses_at`.
        mails_in_session: how many mails one connection may carry; for more `session_answer` is given at `session_at`.
        delay_seconds: how long each mail takes.

    `received` holds the mails that it has taken, `refused` those whose content it has answered with a 5xx.
    """

    offers_tls: bool = False
    speaks_tls: bool = False
    login: tuple[str, str] | None = None
    mechanisms: tuple[str, ...] = ("PLAIN",)
    admits: int | None = None
    refuses_at: str = "connect"
    mails_in_session: int | None = None
    session_at: str = "data"
    session_answer: str = "452 4.4.5 too many mails in this session"
    delay_seconds: float = 0.0
    faults: list[Fault] = field(default_factory=list)
    received: list[Received] = field(default_factory=list)
    refused: list[Received] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    connections: int = 0
    open_connections: int = 0
    # Those of single recipients, of which there may be hundreds, by recipient.
    _faults_of: defaultdict[str, list[Fault]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        self._server: _Server | None = None
        self._changed = threading.Condition()
        self.stopped = threading.Event()
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.load_cert_chain(CERTIFICATE)

    @property
    def port(self) -> int:
        assert self._server is not None, "the server is not started"
        return self._server.server_address[1]

    @property
    def settings(self) -> dict[str, str]:
        """The settings of an application whose mails are to come here."""
        return {"MAIL_SERVER": "127.0.0.1", "MAIL_PORT": str(self.port)}

    def start(self) -> SmtpServer:
        """Begins to listen, on the same port as before when it did before."""
        port = self._server.server_address[1] if self._server else 0
        self.stopped.clear()
        self._server = _Server(("127.0.0.1", port), self)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def stop(self) -> None:
        """Stops listening and cuts every connection."""
        assert self._server is not None, "the server is not started"
        self.stopped.set()
        self._server.shutdown()
        self._server.cut_all()
        self._server.server_close()

    def fail(self, at: str, do: str, *, recipient: str | None = None, times: int | None = None) -> Fault:
        """Adds a fault; see `Fault`."""
        fault = Fault(at, do, recipient, times)
        self._list_of(fault).append(fault)
        return fault

    def mend(self, fault: Fault) -> None:
        """Takes a fault away; connections that hang by it are cut."""
        with self._changed:
            present = self._list_of(fault)
            present[:] = [each for each in present if each is not fault]

    def hangs(self, fault: Fault) -> bool:
        """Whether a connection that met a HANG is still to say nothing."""
        return any(present is fault for present in self._list_of(fault)) and not self.stopped.is_set()

    def record(self, mail: Received) -> None:
        with self._changed:
            self.received.append(mail)
            self._changed.notify_all()

    def wait_for(self, mails: int, timeout_seconds: float = 10.0) -> list[Received]:
        """Waits until that many mails have come; fails after the timeout."""
        with self._changed:
            has_come = self._changed.wait_for(lambda: len(self.received) >= mails, timeout_seconds)
        assert has_come, f"{len(self.received)} of {mails} mails came in {timeout_seconds} s"
        return list(self.received)

    def count(self, change: int) -> int:
        """Counts a connection that begins or ends; how many there are then."""
        with self._changed:
            self.connections += max(change, 0)
            self.open_connections += change
            return self.open_connections

    def fault_for(self, step: str, recipients: tuple[str, ...]) -> Fault | None:
        """The fault that strikes now, counted down."""
        with self._changed:
            present = [fault for email in recipients for fault in self._faults_of.get(email, ())]
            for fault in (*present, *self.faults):
                if fault.at == step and fault.times != 0 and fault.concerns(recipients):
                    if fault.times is not None:
                        fault.times -= 1
                    return fault
        return None

    def _list_of(self, fault: Fault) -> list[Fault]:
        if fault.recipient is None or fault.recipient.startswith("@"):
            return self.faults
        return self._faults_of[fault.recipient]


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 100

    def __init__(self, address: tuple[str, int], owner: SmtpServer) -> None:
        self.owner = owner
        self._open: set[socket.socket] = set()
        super().__init__(address, _Conversation)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that disconnects is not an error of the server."""

    def cut_all(self) -> None:
        for request in list(self._open):
            with suppress(OSError):  # closed by the other side already
                request.shutdown(socket.SHUT_RDWR)


class _Conversation(socketserver.BaseRequestHandler):
    """One connection."""

    server: _Server
    stream: socket.socket

    def handle(self) -> None:
        self.owner = self.server.owner
        number = self.owner.count(1)
        self.is_one_too_many = self.owner.admits is not None and number > self.owner.admits
        self.carried = 0
        self.stream = self.request
        self._forget_mail()
        try:
            if self.owner.speaks_tls:
                self._turn_to_tls()
            self._open_file()
            self._step("connect", "220 test server")
            while line := self.file.readline():
                self._obey(line.decode().rstrip("\r\n"))
        except (_Cut, OSError, ValueError):
            pass  # cut on purpose, or the client is gone
        finally:
            self._close()

    def _obey(self, line: str) -> None:
        self.owner.commands.append(line)
        verb, _, rest = line.partition(" ")
        actions: dict[str, Callable[[str], None]] = {
            "EHLO": self.do_ehlo,
            "HELO": self.do_helo,
            "STARTTLS": self.do_starttls,
            "AUTH": self.do_auth,
            "MAIL": self.do_mail,
            "RCPT": self.do_rcpt,
            "DATA": self.do_data,
            "NOOP": self.do_noop,
            "RSET": self.do_rset,
            "QUIT": self.do_quit,
        }
        actions.get(verb.upper(), self.do_unknown)(rest)

    def do_ehlo(self, rest: str) -> None:
        offers = ["localhost", "8BITMIME", "SIZE 1000000"]
        if self.owner.offers_tls and not isinstance(self.stream, ssl.SSLSocket):
            offers.append("STARTTLS")
        if self.owner.login:
            offers.append(f"AUTH {' '.join(self.owner.mechanisms)}")
        lines = [f"250-{offer}" for offer in offers[:-1]] + [f"250 {offers[-1]}"]
        self._step("ehlo", "\r\n".join(lines))

    def do_helo(self, rest: str) -> None:
        self._step("ehlo", "250 localhost")

    def do_starttls(self, rest: str) -> None:
        self._step("starttls", "220 go ahead")
        self._turn_to_tls()
        self._open_file()

    def do_auth(self, rest: str) -> None:
        mechanism, _, first = rest.partition(" ")
        given, wanted = {"PLAIN": self._plain, "LOGIN": self._login, "CRAM-MD5": self._cram}[mechanism](first)
        self.is_known = given == wanted
        self._step("auth", "235 welcome" if self.is_known else "535 5.7.8 wrong user name or password")

    def _plain(self, first: str) -> tuple[bytes, bytes]:
        user, password = self.owner.login or ("", "")
        return base64.b64decode(first), f"\0{user}\0{password}".encode()

    def _login(self, first: str) -> tuple[bytes, bytes]:
        user, password = self.owner.login or ("", "")
        return base64.b64decode(first) + b"\0" + self._ask("Password:"), f"{user}\0{password}".encode()

    def _cram(self, first: str) -> tuple[bytes, bytes]:
        user, password = self.owner.login or ("", "")
        digest = hmac.new(password.encode(), b"<1@localhost>", "md5").hexdigest()
        return self._ask("<1@localhost>"), f"{user} {digest}".encode()

    def _ask(self, question: str) -> bytes:
        self._say(f"334 {base64.b64encode(question.encode()).decode()}")
        return base64.b64decode(self.file.readline())

    def do_mail(self, rest: str) -> None:
        if self.owner.login and not self.is_known:
            return self._say("530 5.7.0 log in first")
        self.sender = _address(rest)
        return self._step("mail", "250 ok")

    def do_rcpt(self, rest: str) -> None:
        address = _address(rest)
        fault = self._strike("rcpt", (address,))
        if fault is None:
            self.recipients += (address,)
        self._say("250 ok" if fault is None else fault)

    def do_data(self, rest: str) -> None:
        if self._step("data", "354 go on"):
            return None
        content = self._read_content()
        time.sleep(self.owner.delay_seconds)
        mail = Received(self.sender, self.recipients, content, time.monotonic())
        if answer := self._strike("content", self.recipients):
            if answer.startswith("5"):
                self.owner.refused.append(mail)
            return self._say(answer)
        self.owner.record(mail)
        self.carried += 1
        recipients = self.recipients
        self._say(self._strike("accepted", recipients) or "250 2.0.0 taken")
        self._forget_mail()
        self._strike("answered", recipients)
        return None

    def do_noop(self, rest: str) -> None:
        self._step("noop", "250 ok")

    def do_rset(self, rest: str) -> None:
        self._forget_mail()
        self._step("rset", "250 ok")

    def do_quit(self, rest: str) -> None:
        self._say("221 bye")
        raise _Cut

    def do_unknown(self, rest: str) -> None:
        self._say("500 unknown command")

    def _step(self, step: str, answer: str) -> bool:
        """Reply, or apply a fault; return whether one was applied."""
        fault = self._strike(step, self.recipients)
        self._say(fault or answer)
        return fault is not None

    def _strike(self, step: str, recipients: tuple[str, ...]) -> str | None:
        """The answer of a fault; cuts and hangs itself."""
        if self.is_one_too_many and step == self.owner.refuses_at:
            self._say("421 4.7.0 too many connections")
            raise _Cut
        limit = self.owner.mails_in_session
        if limit is not None and self.carried >= limit and step == self.owner.session_at:
            return self.owner.session_answer
        fault = self.owner.fault_for(step, recipients)
        if fault is None:
            return None
        if fault.do == HANG:
            ends_at = time.monotonic() + HANG_SECONDS
            while self.owner.hangs(fault) and time.monotonic() < ends_at:
                self.owner.stopped.wait(0.05)
        if fault.do in (CUT, HANG):
            raise _Cut
        return fault.do

    def _read_content(self) -> bytes:
        lines: list[bytes] = []
        while (line := self.file.readline()) != b".\r\n":
            if not line:
                raise _Cut
            lines.append(line[1:] if line.startswith(b".") else line)
        return b"".join(lines)

    def _say(self, answer: str) -> None:
        self.stream.sendall(f"{answer}\r\n".encode())

    def _turn_to_tls(self) -> None:
        self.stream = self.owner.tls.wrap_socket(self.stream, server_side=True)

    def _open_file(self) -> None:
        self.file = self.stream.makefile("rb")

    def _forget_mail(self) -> None:
        self.sender, self.recipients = "", ()
        self.is_known = getattr(self, "is_known", False)

    def _close(self) -> None:
        self.owner.count(-1)
        if hasattr(self, "file"):
            self.file.close()
        self.stream.close()


def _address(rest: str) -> str:
    return rest[rest.index("<") + 1 : rest.index(">")]
