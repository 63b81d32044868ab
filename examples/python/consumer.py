"""A consumer: handles each event of a named subscription, in order, and goes on where it was.

    pip install grpcio grpcio-tools grpcio-status googleapis-common-protos
    provident proto proto
    mkdir generated
    python -m grpc_tools.protoc -Iproto --python_out=generated --grpc_python_out=generated \\
        proto/provident/v1/*.proto
    PYTHONPATH=generated python consumer.py 127.0.0.1:50051 my-team

Prints `SEQUENCE UUID` for each event; that is where your work belongs. At least once: after a crash
of this program, what was handled and not yet committed comes again. Ends well on SIGTERM, and with
an error when another reader takes over.

Reading and handling are in the main thread; a second one commits, and does nothing else.
"""

import queue
import random
import signal
import sys
import threading
import time

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from provident.v1 import (
    event_service_pb2,
    event_service_pb2_grpc,
    subscription_service_pb2,
    subscription_service_pb2_grpc,
)

ANSWER_SECONDS = 10  # how long a call, or the first message of a stream, may take
BACKOFF_FIRST, BACKOFF_MAX = 0.2, 15.0  # bounds of the first wait, and of any
COMMIT_SECONDS = 1.0  # between two commits
SILENT_HEARTBEATS = 3  # that may fail to come before a connection counts as dead
MESSAGE_BYTES_MAX = 64 << 20

stopping = threading.Event()


class Silent(Exception):
    """Nothing came for too long."""


class BrokenOff(Exception):
    """The stream ended without saying so, or the server is stopping."""


class Again(Exception):
    """The stream ended as planned, and there is nothing to wait for."""


class Stopped(Exception):
    """This program was told to stop."""


def reason_of(error):
    """The server's reason and how long it asks to wait; no reason if it is not the server's word."""
    reason, delay = "", 0.0
    try:
        status = rpc_status.from_call(error)
    except (ValueError, AttributeError):
        status = None
    for detail in status.details if status else []:
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        if detail.Is(info.DESCRIPTOR):
            detail.Unpack(info)
            reason = info.reason
        elif detail.Is(retry.DESCRIPTOR):
            detail.Unpack(retry)
            delay = retry.retry_delay.ToTimedelta().total_seconds()
    return reason, delay


def is_passing(error):
    """Whether trying again may help. All else is final, FENCED above all."""
    if not isinstance(error, grpc.RpcError):
        return isinstance(error, (Silent, BrokenOff))
    reason, _ = reason_of(error)
    if reason in ("STORAGE_FULL", "LIMIT_REACHED"):
        return True
    if reason:
        return error.code() == grpc.StatusCode.UNAVAILABLE
    # Not the server's word: the connection broke, in one of the ways that HTTP/2 has.
    return error.code() in (
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.INTERNAL,
    )


def say(text):
    print(text, file=sys.stderr, flush=True)


class Consumer:
    def __init__(self, address, subscription):
        self.address = address
        self.subscription = subscription
        self.channel = None
        self.lock = threading.Lock()
        self.session = ""  # the right to commit, given with each stream
        self.sent = 0  # how far this session was sent events
        self.handled = (0, "")  # sequence and cursor of what is done with
        self.committed = ""
        self.refused = None  # why committing failed for good
        self.reads = None  # which journal, with which filter
        self.has_begun = False

    # --- committing ---------------------------------------------------------------------------

    def commit(self):
        """Commits what is done with, as far as this session may. One caller at a time."""
        with self.lock:
            sequence, cursor = self.handled
            session, channel = self.session, self.channel
            # A session commits no more than it was sent.
            if not session or cursor == self.committed or sequence > self.sent:
                return
        self.commit_cursor(channel, session, cursor)

    def commit_cursor(self, channel, session, cursor):
        request = subscription_service_pb2.CommitRequest(
            subscription_id=self.subscription, session=session, cursor=cursor
        )
        stub = subscription_service_pb2_grpc.SubscriptionServiceStub(channel)
        try:
            stub.Commit(request, timeout=ANSWER_SECONDS)
        except grpc.RpcError as error:
            # Committed already, by a call whose answer was lost.
            if reason_of(error)[0] != "CURSOR_BEHIND":
                raise
        with self.lock:
            if session == self.session:
                self.committed = cursor

    def commit_for_ever(self):
        while not stopping.wait(COMMIT_SECONDS):
            session = self.session
            try:
                self.commit()
            except grpc.RpcError as error:
                # What a session is told that is over by now says nothing about the one that is.
                if not is_passing(error) and session == self.session:
                    self.refused = error
            except ValueError:
                pass  # the channel was closed meanwhile: there is a new one in a moment

    # --- reading ------------------------------------------------------------------------------

    def connect(self):
        """A new connection, as the old one may be to a server that is gone."""
        if self.channel:
            self.channel.close()
        self.channel = grpc.insecure_channel(
            self.address,
            options=[
                ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
                # Waits are ours, and a channel of its own for each attempt.
                ("grpc.enable_retries", 0),
                ("grpc.use_local_subchannel_pool", 1),
            ],
        )

    def ensure_subscription(self):
        stub = subscription_service_pb2_grpc.SubscriptionServiceStub(self.channel)
        request = subscription_service_pb2.CreateSubscriptionRequest(
            subscription_id=self.subscription,
            position=event_service_pb2.POSITION_EARLIEST,
        )
        try:
            stub.CreateSubscription(request, timeout=ANSWER_SECONDS)
        except grpc.RpcError as error:
            if reason_of(error)[0] != "SUBSCRIPTION_EXISTS":
                raise

    def settle(self):
        """Before a new stream: commits under the session before, if there is one.

        So less comes again; and if another reader has taken over, this says FENCED, while subscribing
        would throw that reader off.
        """
        with self.lock:
            session, (sequence, cursor) = self.session, self.handled
            # Whether the server hears Subscribe is known only by its answer, and with that the
            # session ends.
            self.session = ""
            if sequence > self.sent or not cursor:
                cursor = self.committed
        if session:
            try:
                self.commit_cursor(self.channel, session, cursor)
            except grpc.RpcError as error:
                if is_passing(error):
                    with self.lock:
                        self.session = session
                raise

    def messages(self):
        """The messages of one stream, none of which is waited for too long."""
        request = event_service_pb2.SubscribeRequest(
            subscription_id=self.subscription,
            on_gap=event_service_pb2.ON_GAP_SKIP,
            reader="example of a consumer in Python",
        )
        call = event_service_pb2_grpc.EventServiceStub(self.channel).Subscribe(request)
        arrived, is_over = queue.Queue(maxsize=2), threading.Event()

        def put(message):
            while not is_over.is_set():
                try:
                    return arrived.put(message, timeout=0.2)
                except queue.Full:
                    pass

        def read():
            try:
                for message in call:
                    put(message)
                put(None)
            except grpc.RpcError as error:
                put(error)

        threading.Thread(target=read, daemon=True).start()
        silence = ANSWER_SECONDS
        try:
            while True:
                since = time.monotonic()
                while True:
                    if stopping.is_set():
                        raise Stopped
                    if self.refused:
                        raise self.refused
                    try:
                        message = arrived.get(timeout=0.2)
                        break
                    except queue.Empty:
                        if time.monotonic() - since > silence:
                            raise Silent(f"no sign of life for {silence} s") from None
                if message is None:
                    raise BrokenOff("the stream broke off")
                if isinstance(message, grpc.RpcError):
                    raise message
                if message.HasField("confirmation"):
                    interval = message.confirmation.heartbeat_interval
                    silence = SILENT_HEARTBEATS * interval.ToTimedelta().total_seconds()
                yield message
        finally:
            is_over.set()
            call.cancel()

    def read(self):
        """Reads one stream to its end, which is an exception."""
        for message in self.messages():
            kind = message.WhichOneof("message")
            if kind == "confirmation":
                self.begin(message.confirmation)
            elif kind == "batch":
                for event in message.batch.events:
                    self.take(event)
            elif kind == "heartbeat":
                self.pass_to(message.heartbeat.cursor)
            elif kind == "caught_up":
                with self.lock:
                    # All that was handled before was in the journal when this stream began.
                    self.sent = max(self.sent, self.handled[0])
                self.pass_to(message.caught_up.cursor)
            elif kind == "gap":
                self.lose(message.gap)
            elif kind == "ending":
                self.pass_to(message.ending.cursor)
                if message.ending.reason in (
                    event_service_pb2.ENDING_REASON_MAX_AGE,
                    event_service_pb2.ENDING_REASON_SUBSCRIPTION_CHANGED,
                ):
                    raise Again
                raise BrokenOff("the server is stopping")
            # A kind that a newer server has is passed over.

    def begin(self, confirmation):
        self.has_begun = True
        with self.lock:
            self.session = confirmation.session
            self.committed = confirmation.start_cursor
            self.sent = 0
            reads = (confirmation.journal_id, confirmation.effective_filter)
            if self.reads is not None and self.reads != reads:
                # Of another journal, or through another filter, the same sequences are other events.
                self.handled = (0, confirmation.start_cursor)
            self.reads = reads
            if not self.handled[1]:
                self.handled = (0, confirmation.start_cursor)

    def take(self, event):
        # What was handled before the connection broke comes again; it is known by its sequence.
        if event.sequence > self.handled[0]:
            handle(event)
        with self.lock:
            self.sent = event.sequence
            if event.sequence > self.handled[0]:
                self.handled = (event.sequence, event.cursor)
        if stopping.is_set():
            raise Stopped

    def lose(self, gap):
        first = max(gap.first_lost_sequence, self.handled[0] + 1)
        if first <= gap.last_lost_sequence:
            say(f"LOST: events {first} to {gap.last_lost_sequence} were removed before they "
                "could be read")
        with self.lock:
            self.sent = gap.last_lost_sequence
            if gap.last_lost_sequence > self.handled[0]:
                self.handled = (gap.last_lost_sequence, gap.resume_cursor)

    def pass_to(self, cursor):
        """All that is wanted up to a cursor has been sent: so all of it is done with."""
        with self.lock:
            if self.sent >= self.handled[0]:
                self.handled = (self.handled[0], cursor)

    def run(self):
        threading.Thread(target=self.commit_for_ever, daemon=True).start()
        attempts, is_made = 0, False
        while True:
            try:
                self.connect()
                if not is_made:
                    self.ensure_subscription()
                    is_made = True
                self.settle()
                self.read()
            except Stopped:
                # What is done with is done with.
                self.commit()
                return
            except Again:
                if self.has_begun:
                    self.has_begun, attempts = False, 0
                continue
            except (grpc.RpcError, Silent, BrokenOff) as error:
                if not is_passing(error):
                    raise
                if self.has_begun:
                    self.has_begun, attempts = False, 0
                if attempts == 0:
                    what = error.code() if isinstance(error, grpc.RpcError) else error
                    say(f"{what}; going on as soon as that passes")
                asked = reason_of(error)[1] if isinstance(error, grpc.RpcError) else 0.0
                bound = min(BACKOFF_MAX, BACKOFF_FIRST * 2 ** min(attempts, 20))
                attempts += 1
                if stopping.wait(asked + random.uniform(0, bound)):
                    # There is no stream to commit with; what is not committed comes again.
                    return


def handle(event):
    """Your work. An exception ends the consumer, so the event comes again when it is started anew."""
    print(event.sequence, event.event.uuid, flush=True)


def main():
    if len(sys.argv) != 3:
        sys.exit("usage: consumer.py HOST:PORT SUBSCRIPTION")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    try:
        Consumer(sys.argv[1], sys.argv[2]).run()
    except grpc.RpcError as error:
        sys.exit(f"{reason_of(error)[0] or error.code()}: {error.details()}")


if __name__ == "__main__":
    main()
