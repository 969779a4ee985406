"""Messages to the bounce address, as mail servers write them, for a return path, a Message-ID and a recipient."""

from __future__ import annotations

from collections.abc import Callable

Sample = Callable[[str, str, str], str]


def postfix(to: str, message_id: str, recipient: str, *, code: str = "5.1.1", action: str = "failed") -> str:
    """Postfix, with a delivery status (RFC 3464)."""
    reply = f"{code[0]}50"
    return f"""\
Return-Path: <>
Received: by mx.example.net (Postfix)
\tid 4F1B2C3D; Mon, 30 Nov 2026 12:00:00 +0000 (UTC)
Date: Mon, 30 Nov 2026 12:00:00 +0000 (UTC)
From: MAILER-DAEMON@mx.example.net (Mail Delivery System)
Subject: Undelivered Mail Returned to Sender
To: {to}
Auto-Submitted: auto-replied
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status;
\tboundary="4F1B2C3D.1764504000/mx.example.net"
Message-Id: <20261130120000.4F1B2C3D@mx.example.net>

This is a MIME-encapsulated message.

--4F1B2C3D.1764504000/mx.example.net
Content-Description: Notification
Content-Type: text/plain; charset=us-ascii

This is the mail system at host mx.example.net.

I'm sorry to have to inform you that your message could not
be delivered to one or more recipients. It's attached below.

                   The mail system

<{recipient}>: host mail.example.org[192.0.2.7] said: {reply} {code}
    <{recipient}>: Recipient address rejected: User unknown in virtual mailbox
    table (in reply to RCPT TO command)

--4F1B2C3D.1764504000/mx.example.net
Content-Description: Delivery report
Content-Type: message/delivery-status

Reporting-MTA: dns; mx.example.net
X-Postfix-Queue-ID: 4F1B2C3D
X-Postfix-Sender: rfc822; {to}
Arrival-Date: Mon, 30 Nov 2026 11:59:58 +0000 (UTC)

Final-Recipient: rfc822; {recipient}
Original-Recipient: rfc822;{recipient}
Action: {action}
Status: {code}
Remote-MTA: dns; mail.example.org
Diagnostic-Code: smtp; {reply} {code} <{recipient}>: Recipient address rejected:
    User unknown in virtual mailbox table

--4F1B2C3D.1764504000/mx.example.net
Content-Description: Undelivered Message
Content-Type: message/rfc822

{returned(message_id, recipient)}
--4F1B2C3D.1764504000/mx.example.net--
"""


def delayed(to: str, message_id: str, recipient: str) -> str:
    """Postfix, which still tries."""
    return postfix(to, message_id, recipient, code="4.4.1", action="delayed")


def exim(to: str, message_id: str, recipient: str) -> str:
    """Exim without a delivery status; its reply is in the text."""
    return f"""\
Return-path: <>
Envelope-to: {to}
Received: from Debian-exim by mx.example.net with local (Exim 4.96)
\tid 1vPz5K-0000Xy-1a; Mon, 30 Nov 2026 12:00:00 +0000
X-Failed-Recipients: {recipient}
Auto-Submitted: auto-replied
From: Mail Delivery System <Mailer-Daemon@mx.example.net>
To: {to}
Subject: Mail delivery failed: returning message to sender
Message-Id: <E1vPz5K-0000Xy-1a@mx.example.net>

This message was created automatically by mail delivery software.

A message that you sent could not be delivered to one or more of its
recipients. This is a permanent error. The following address(es) failed:

  {recipient}
    host mail.example.org [192.0.2.7]
    SMTP error from remote mail server after RCPT TO:<{recipient}>:
    550 5.1.1 <{recipient}>: User unknown

------ This is a copy of the message, including all the headers. ------

{returned(message_id, recipient)}"""


def exchange(to: str, message_id: str, recipient: str) -> str:
    """Exchange Online: the general code 5.0.0, and the other server's in the diagnostic."""
    return f"""\
From: Microsoft Outlook <MicrosoftExchange329e71ec88ae4615bbc36ab6ce41109e@example.net>
To: <{to}>
Date: Mon, 30 Nov 2026 12:00:00 +0000
Content-Type: multipart/report; report-type=delivery-status;
\tboundary="2c8e1d3a-6f4b-4f7a-9d8e-000000000001"
Content-Language: en-US
Message-ID: <2c8e1d3a-6f4b-4f7a-9d8e-000000000001@example.net>
Subject: Undeliverable: A test message from Belfry
Auto-Submitted: auto-replied
MIME-Version: 1.0

--2c8e1d3a-6f4b-4f7a-9d8e-000000000001
Content-Type: multipart/alternative; differences=Content-Type;
\tboundary="1a1b1c1d-0000-4000-8000-000000000002"

--1a1b1c1d-0000-4000-8000-000000000002
Content-Type: text/plain; charset="us-ascii"
Content-Transfer-Encoding: quoted-printable

Delivery has failed to these recipients or groups:

{recipient}<mailto:{recipient}>
The email address you entered couldn't be found.

--1a1b1c1d-0000-4000-8000-000000000002
Content-Type: text/html; charset="us-ascii"

<html><body>{"<p>Delivery has failed to these recipients or groups:</p>" * 200}</body></html>

--1a1b1c1d-0000-4000-8000-000000000002--

--2c8e1d3a-6f4b-4f7a-9d8e-000000000001
Content-Type: message/delivery-status

Reporting-MTA: dns;AM0PR01MB0001.eurprd01.prod.example.net
Received-From-MTA: dns;belfry.example
Arrival-Date: Mon, 30 Nov 2026 11:59:58 +0000

Final-Recipient: rfc822;{recipient}
Action: failed
Status: 5.0.0
Diagnostic-Code: smtp;550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient not found by SMTP address lookup

--2c8e1d3a-6f4b-4f7a-9d8e-000000000001
Content-Type: message/rfc822

{returned(message_id, recipient)}
--2c8e1d3a-6f4b-4f7a-9d8e-000000000001--
"""


def qmail(to: str, message_id: str, recipient: str) -> str:
    """qmail: text only."""
    return f"""\
Return-Path: <>
Delivered-To: {to}
Received: (qmail 12345 invoked for bounce); 30 Nov 2026 12:00:00 -0000
Date: 30 Nov 2026 12:00:00 -0000
From: MAILER-DAEMON@mx.example.net
To: {to}
Subject: failure notice

Hi. This is the qmail-send program at mx.example.net.
I'm afraid I wasn't able to deliver your message to the following addresses.
This is a permanent error; I've given up. Sorry it didn't work out.

<{recipient}>:
Sorry, no mailbox here by that name. (#5.1.1)

--- Below this line is a copy of the message.

Return-Path: <{to}>
{returned(message_id, recipient)}"""


def out_of_office(to: str, message_id: str, recipient: str) -> str:
    """An automatic reply, whose text reads like a bounce."""
    return f"""\
Return-Path: <>
From: Ada <{recipient}>
To: {to}
Subject: Automatic reply: A test message from Belfry
Auto-Submitted: auto-replied
In-Reply-To: {message_id}
Content-Type: text/plain; charset=utf-8

Hi. This is the assistant of Ada, who left.

<{recipient}>:
550 5.1.1 Your message could not be delivered to this mailbox.
"""


def returned(message_id: str, recipient: str) -> str:
    """The headers of the mail that a server returns."""
    return f"""\
From: Belfry <no-reply@belfry.example>
To: {recipient}
Subject: A test message from Belfry
Message-ID: {message_id}
Auto-Submitted: auto-generated
Content-Type: text/plain; charset=utf-8

The text quotes another status: 5.2.2, mailbox full.
"""
