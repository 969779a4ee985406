"""A DNS server for tests, on a real socket, with TXT records."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Mapping, Sequence

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
from dns.resolver import Resolver


class DnsServer:
    """Answers queries for TXT records; a name without any does not exist."""

    def __init__(self, records: Mapping[str, Sequence[str]]) -> None:
        self.records = records
        # The names that were asked for, in order.
        self.names: list[str] = []
        # The response code instead of an answer.
        self.fails_with: dns.rcode.Rcode | None = None
        self.is_silent = False
        self._server = _Server(("127.0.0.1", 0), self)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def resolver(self) -> Resolver:
        """A resolver that uses this server only."""
        resolver = Resolver(configure=False)
        vars(resolver).update(_nameservers=["127.0.0.1"], port=self._server.server_address[1])
        return resolver

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, content: bytes) -> bytes | None:
        query = dns.message.from_wire(content)
        name = query.question[0].name.to_text(omit_final_dot=True)
        self.names.append(name)
        if self.is_silent:
            return None
        response = dns.message.make_response(query, recursion_available=True)
        texts = self.records.get(name, ())
        if self.fails_with is not None or not texts:
            response.set_rcode(self.fails_with or dns.rcode.NXDOMAIN)
        else:
            # Long records have several strings.
            quoted = [" ".join(f'"{text[at : at + 200]}"' for at in range(0, len(text), 200)) for text in texts]
            response.answer.append(dns.rrset.from_text(query.question[0].name, 60, "IN", "TXT", *quoted))
        return response.to_wire()


class _Server(socketserver.ThreadingUDPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], owner: DnsServer) -> None:
        self.owner = owner
        super().__init__(address, _Query)


class _Query(socketserver.BaseRequestHandler):
    server: _Server

    def handle(self) -> None:
        content, socket = self.request
        if (answer := self.server.owner.answer(content)) is not None:
            socket.sendto(answer, self.client_address)
