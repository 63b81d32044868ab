import com.google.protobuf.Any;
import com.google.protobuf.Duration;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import dev.provident.v1.CommitRequest;
import dev.provident.v1.Confirmation;
import dev.provident.v1.CreateSubscriptionRequest;
import dev.provident.v1.EventServiceGrpc;
import dev.provident.v1.Filter;
import dev.provident.v1.Gap;
import dev.provident.v1.OnGap;
import dev.provident.v1.Position;
import dev.provident.v1.StreamedEvent;
import dev.provident.v1.SubscribeRequest;
import dev.provident.v1.SubscribeResponse;
import dev.provident.v1.SubscriptionServiceGrpc;
import io.grpc.Context;
import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.util.Iterator;
import java.util.Set;
import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.ScheduledFuture;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;

/**
 * A consumer: handles each event of a named subscription, in order, and goes on where it was.
 *
 * <pre>
 *   provident proto proto
 *   protoc -Iproto --java_out=generated --grpc-java_out=generated proto/provident/v1/*.proto
 *   javac -d classes -cp $CLASSPATH $(find generated -name '*.java') Consumer.java
 *   java -cp classes:$CLASSPATH Consumer 127.0.0.1:50051 my-team
 * </pre>
 *
 * with protoc-gen-grpc-java as plugin, and on the class path what Maven brings for
 * io.grpc:grpc-netty, grpc-protobuf and grpc-stub.
 *
 * <p>Prints {@code SEQUENCE UUID} for each event; that is where your work belongs. At least once:
 * after a crash of this program, what was handled and not yet committed comes again. Ends well on
 * SIGTERM, and with an error when another reader takes over.
 *
 * <p>Reading and handling are in the main thread; a second one commits and counts silence.
 */
public final class Consumer {
    /** How long a call, or the first message of a stream, may take. */
    private static final long ANSWER_MS = 10_000;
    /** The longest first wait, and the longest of all. */
    private static final long BACKOFF_FIRST_MS = 200;
    private static final long BACKOFF_MAX_MS = 15_000;
    /** Between two commits. */
    private static final long COMMIT_MS = 1_000;
    /** Heartbeats that may fail to come before a connection counts as dead. */
    private static final int SILENT_HEARTBEATS = 3;
    private static final int MESSAGE_BYTES_MAX = 64 << 20;
    /** What a connection says when it breaks, in one of the ways that HTTP/2 has. */
    private static final Set<Status.Code> PASSING_CODES = Set.of(
            Status.Code.UNAVAILABLE, Status.Code.CANCELLED, Status.Code.DEADLINE_EXCEEDED,
            Status.Code.UNKNOWN, Status.Code.INTERNAL);

    /** What passes by itself, and is not the server's word. */
    private static final class Interrupted extends Exception {
        Interrupted(String message) {
            super(message);
        }
    }

    /** The stream ended as planned, and there is nothing to wait for. */
    private static final class Again extends Exception {}

    /** The server's reason and how long it asks to wait; no reason if it is not the server's word. */
    private record Reason(String name, long delayMs) {
        static Reason of(Exception error) {
            String name = "";
            long delayMs = 0;
            com.google.rpc.Status status = StatusProto.fromThrowable(error);
            try {
                for (Any detail : status == null ? java.util.List.<Any>of() : status.getDetailsList()) {
                    if (detail.is(ErrorInfo.class)) {
                        name = detail.unpack(ErrorInfo.class).getReason();
                    } else if (detail.is(RetryInfo.class)) {
                        delayMs = milliseconds(detail.unpack(RetryInfo.class).getRetryDelay());
                    }
                }
            } catch (InvalidProtocolBufferException malformed) {
                // Then it is nobody's word.
            }
            return new Reason(name, delayMs);
        }
    }

    private static long milliseconds(Duration duration) {
        return duration.getSeconds() * 1_000 + duration.getNanos() / 1_000_000;
    }

    /** Whether trying again may help. All else is final, FENCED above all. */
    private static boolean isPassing(Exception error) {
        if (!(error instanceof StatusRuntimeException)) {
            return error instanceof Interrupted;
        }
        Status.Code code = ((StatusRuntimeException) error).getStatus().getCode();
        return switch (Reason.of(error).name()) {
            case "STORAGE_FULL", "LIMIT_REACHED" -> true;
            case "" -> PASSING_CODES.contains(code);
            default -> code == Status.Code.UNAVAILABLE;
        };
    }

    /** A place in the journal; of another journal or filter, the same sequence is another event. */
    private record Place(long sequence, String cursor) {}

    private final String address;
    private final String subscription;
    private final ScheduledExecutorService beside = Executors.newSingleThreadScheduledExecutor(task -> {
        Thread thread = new Thread(task, "commits");
        thread.setDaemon(true);
        return thread;
    });

    // All of this is guarded by `this`.
    private ManagedChannel channel;
    private Context.CancellableContext stream;
    private boolean isStopping;
    /** Why committing failed for good. */
    private Exception refused;
    /** The right to commit, given with each stream. */
    private String session = "";
    /** How far this session was sent events. */
    private long sent;
    /** What is done with. */
    private Place handled = new Place(0, "");
    private String committed = "";

    // Of the main thread.
    private String journal;
    private Filter filter;
    private boolean hasBegun;

    private Consumer(String address, String subscription) {
        this.address = address;
        this.subscription = subscription;
    }

    // --- committing -------------------------------------------------------------------------------

    /** Commits what is done with, as far as this session may. One caller at a time. */
    private void commit() {
        ManagedChannel on;
        String under;
        String cursor;
        synchronized (this) {
            // A session commits no more than it was sent.
            if (session.isEmpty() || handled.cursor().equals(committed) || handled.sequence() > sent) {
                return;
            }
            on = channel;
            under = session;
            cursor = handled.cursor();
        }
        commitCursor(on, under, cursor);
    }

    private void commitCursor(ManagedChannel on, String under, String cursor) {
        try {
            SubscriptionServiceGrpc.newBlockingStub(on)
                    .withDeadlineAfter(ANSWER_MS, TimeUnit.MILLISECONDS)
                    .commit(CommitRequest.newBuilder()
                            .setSubscriptionId(subscription)
                            .setSession(under)
                            .setCursor(cursor)
                            .build());
        } catch (StatusRuntimeException error) {
            // Committed already, by a call whose answer was lost.
            if (!Reason.of(error).name().equals("CURSOR_BEHIND")) {
                throw error;
            }
        }
        synchronized (this) {
            if (under.equals(session)) {
                committed = cursor;
            }
        }
    }

    private void commitNowAndThen() {
        String under;
        synchronized (this) {
            under = session;
        }
        try {
            commit();
        } catch (StatusRuntimeException error) {
            synchronized (this) {
                // What a session is told that is over by now says nothing about the one that is.
                if (!isPassing(error) && under.equals(session)) {
                    refused = error;
                    cancelStream();
                }
            }
        }
    }

    // --- reading ----------------------------------------------------------------------------------

    private synchronized void cancelStream() {
        if (stream != null) {
            stream.cancel(null);
        }
        notifyAll();
    }

    /** A new connection, as the old one may be to a server that is gone. */
    private synchronized void connect() {
        if (channel != null) {
            channel.shutdownNow();
        }
        // With TLS, which is what a network wants, leave out usePlaintext.
        channel = ManagedChannelBuilder.forTarget(address)
                .usePlaintext()
                .disableRetry() // waits are ours
                .maxInboundMessageSize(MESSAGE_BYTES_MAX)
                .build();
    }

    private void ensureSubscription() {
        try {
            SubscriptionServiceGrpc.newBlockingStub(channel)
                    .withDeadlineAfter(ANSWER_MS, TimeUnit.MILLISECONDS)
                    .createSubscription(CreateSubscriptionRequest.newBuilder()
                            .setSubscriptionId(subscription)
                            .setPosition(Position.POSITION_EARLIEST)
                            .build());
        } catch (StatusRuntimeException error) {
            if (!Reason.of(error).name().equals("SUBSCRIPTION_EXISTS")) {
                throw error;
            }
        }
    }

    /**
     * Before a new stream: commits under the session before, if there is one.
     *
     * <p>So less comes again; and if another reader has taken over, this says FENCED, while subscribing
     * would throw that reader off.
     */
    private void settle() {
        String under;
        String cursor;
        synchronized (this) {
            under = session;
            boolean isSent = handled.sequence() <= sent && !handled.cursor().isEmpty();
            cursor = isSent ? handled.cursor() : committed;
            // Whether the server hears Subscribe is known only by its answer, and with that the
            // session ends.
            session = "";
        }
        if (under.isEmpty()) {
            return;
        }
        try {
            commitCursor(channel, under, cursor);
        } catch (StatusRuntimeException error) {
            if (isPassing(error)) {
                synchronized (this) {
                    session = under;
                }
            }
            throw error;
        }
    }

    /** Reads one stream to its end, which is an exception. */
    private void read() throws Exception {
        try (Context.CancellableContext context = Context.current().withCancellation()) {
            synchronized (this) {
                if (isStopping || refused != null) {
                    return;
                }
                stream = context;
            }
            Iterator<SubscribeResponse> messages = context.call(() ->
                    EventServiceGrpc.newBlockingStub(channel).subscribe(SubscribeRequest.newBuilder()
                            .setSubscriptionId(subscription)
                            .setOnGap(OnGap.ON_GAP_SKIP)
                            .setReader("example of a consumer in Java")
                            .build()));
            Interrupted silent = new Interrupted("no sign of life for too long");
            long silenceMs = ANSWER_MS;
            while (true) {
                ScheduledFuture<?> watch =
                        beside.schedule(() -> context.cancel(silent), silenceMs, TimeUnit.MILLISECONDS);
                SubscribeResponse message;
                try {
                    if (!messages.hasNext()) {
                        throw new Interrupted("the stream broke off");
                    }
                    message = messages.next();
                } catch (StatusRuntimeException error) {
                    throw context.cancellationCause() == silent ? silent : error;
                } finally {
                    watch.cancel(false);
                }
                if (message.hasConfirmation()) {
                    silenceMs = SILENT_HEARTBEATS
                            * milliseconds(message.getConfirmation().getHeartbeatInterval());
                }
                take(message);
            }
        }
    }

    private void take(SubscribeResponse message) throws Interrupted, Again {
        switch (message.getMessageCase()) {
            case CONFIRMATION -> begin(message.getConfirmation());
            case BATCH -> {
                for (StreamedEvent event : message.getBatch().getEventsList()) {
                    take(event);
                }
            }
            case HEARTBEAT -> passTo(message.getHeartbeat().getCursor());
            case CAUGHT_UP -> {
                synchronized (this) {
                    // All that was handled before was in the journal when this stream began.
                    sent = Math.max(sent, handled.sequence());
                }
                passTo(message.getCaughtUp().getCursor());
            }
            case GAP -> lose(message.getGap());
            case ENDING -> {
                passTo(message.getEnding().getCursor());
                switch (message.getEnding().getReason()) {
                    case ENDING_REASON_MAX_AGE, ENDING_REASON_SUBSCRIPTION_CHANGED -> throw new Again();
                    default -> throw new Interrupted("the server is stopping");
                }
            }
            default -> {
                // A kind that a newer server has is passed over.
            }
        }
    }

    private synchronized void begin(Confirmation confirmation) {
        hasBegun = true;
        session = confirmation.getSession();
        committed = confirmation.getStartCursor();
        sent = 0;
        boolean isAnother = filter != null
                && !(confirmation.getJournalId().equals(journal)
                        && confirmation.getEffectiveFilter().equals(filter));
        if (isAnother || handled.cursor().isEmpty()) {
            handled = new Place(0, confirmation.getStartCursor());
        }
        journal = confirmation.getJournalId();
        filter = confirmation.getEffectiveFilter();
    }

    private void take(StreamedEvent event) throws Interrupted {
        // What was handled before the connection broke comes again; it is known by its sequence.
        boolean isNew = event.getSequence() > handled.sequence();
        if (isNew) {
            handle(event);
        }
        synchronized (this) {
            sent = event.getSequence();
            if (isNew) {
                handled = new Place(event.getSequence(), event.getCursor());
            }
            if (isStopping) {
                throw new Interrupted("told to stop");
            }
        }
    }

    private synchronized void lose(Gap gap) {
        long first = Math.max(gap.getFirstLostSequence(), handled.sequence() + 1);
        long last = gap.getLastLostSequence();
        if (first <= last) {
            say("LOST: events " + first + " to " + last + " were removed before they could be read");
            handled = new Place(last, gap.getResumeCursor());
        }
        sent = last;
    }

    /** All that is wanted up to a cursor has been sent: so all of it is done with. */
    private synchronized void passTo(String cursor) {
        if (sent >= handled.sequence()) {
            handled = new Place(handled.sequence(), cursor);
        }
    }

    /** Consumes until told to stop, or until trying again does not help. */
    private void run() throws Exception {
        beside.scheduleWithFixedDelay(this::commitNowAndThen, COMMIT_MS, COMMIT_MS, TimeUnit.MILLISECONDS);
        boolean isMade = false;
        int attempts = 0;
        while (true) {
            Exception error;
            try {
                connect();
                if (!isMade) {
                    ensureSubscription();
                    isMade = true;
                }
                settle();
                read();
                error = new Interrupted("told to stop");
            } catch (StatusRuntimeException | Interrupted | Again passing) {
                error = passing;
            }
            synchronized (this) {
                if (refused != null) {
                    throw refused;
                }
                if (isStopping) {
                    break;
                }
            }
            boolean wasBegun = hasBegun;
            hasBegun = false;
            if (wasBegun) {
                attempts = 0;
            }
            boolean isAgain = error instanceof Again;
            if (isAgain && wasBegun) {
                continue;
            }
            if (!isAgain && !isPassing(error)) {
                throw error;
            }
            if (attempts == 0) {
                say(error.getMessage() + "; going on as soon as that passes");
            }
            long bound = Math.min(BACKOFF_MAX_MS, BACKOFF_FIRST_MS << Math.min(attempts, 20));
            attempts += 1;
            pause(Reason.of(error).delayMs() + ThreadLocalRandom.current().nextLong(bound));
        }
        // What is done with is done with.
        beside.shutdown();
        beside.awaitTermination(ANSWER_MS, TimeUnit.MILLISECONDS);
        commit();
    }

    /** Waits, but not longer than until this is told to stop. */
    private synchronized void pause(long ms) throws InterruptedException {
        long end = System.nanoTime() + TimeUnit.MILLISECONDS.toNanos(ms);
        while (!isStopping) {
            long left = TimeUnit.NANOSECONDS.toMillis(end - System.nanoTime());
            if (left <= 0) {
                return;
            }
            wait(left);
        }
    }

    private synchronized void stop() {
        isStopping = true;
        cancelStream();
    }

    private static void say(String text) {
        System.err.println(text);
    }

    /** Your work. An exception ends the consumer, so the event comes again when it is started anew. */
    private static void handle(StreamedEvent event) {
        System.out.println(event.getSequence() + " " + event.getEvent().getUuid());
        System.out.flush();
    }

    public static void main(String[] arguments) {
        if (arguments.length != 2) {
            say("usage: Consumer HOST:PORT SUBSCRIPTION");
            System.exit(2);
        }
        Consumer consumer = new Consumer(arguments[0], arguments[1]);
        Thread main = Thread.currentThread();
        // A JVM that is told to stop ends with an error unless it is halted.
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            consumer.stop();
            try {
                main.join(2 * ANSWER_MS);
            } catch (InterruptedException error) {
                // Then it ends at once.
            }
            Runtime.getRuntime().halt(consumer.exitCode);
        }));
        try {
            consumer.run();
        } catch (Exception error) {
            consumer.exitCode = 1;
            say((Reason.of(error).name() + " " + error.getMessage()).trim());
        }
    }

    private volatile int exitCode;
}
