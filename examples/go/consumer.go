// A consumer: handles each event of a named subscription, in order, and goes on where it was.
//
//	provident proto proto
//	mkdir gen
//	protoc -Iproto --go_out=gen --go_opt=module=provident.dev/gen/go \
//	    --go-grpc_out=gen --go-grpc_opt=module=provident.dev/gen/go proto/provident/v1/*.proto
//	(cd gen && go mod init provident.dev/gen/go)
//	go mod init consumer && go mod edit -replace provident.dev/gen/go=./gen && go mod tidy
//	go run . 127.0.0.1:50051 my-team
//
// Prints `SEQUENCE UUID` for each event; that is where your work belongs. At least once: after a
// crash of this program, what was handled and not yet committed comes again. Ends well on SIGTERM,
// and with an error when another reader takes over.
//
// Reading and handling are in one goroutine; a second one commits, and does nothing else.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "provident.dev/gen/go/provident/v1"
)

const (
	answerTimeout    = 10 * time.Second       // how long a call, or the first message of a stream, may take
	backoffFirst     = 200 * time.Millisecond // the longest first wait
	backoffMax       = 15 * time.Second       // the longest wait of all
	commitInterval   = time.Second            // between two commits
	silentHeartbeats = 3                      // that may fail to come before a connection counts as dead
	messageBytesMax  = 64 << 20
)

var (
	errSilent    = errors.New("no sign of life for too long")
	errBrokenOff = errors.New("the stream broke off, or the server is stopping")
	// The stream ended as planned, and there is nothing to wait for.
	errAgain = errors.New("the stream ended as planned")
)

// reasonOf gives the server's reason and how long it asks to wait; no reason if it is not the
// server's word.
func reasonOf(err error) (reason string, delay time.Duration) {
	for _, detail := range status.Convert(err).Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			reason = detail.GetReason()
		case *errdetails.RetryInfo:
			delay = detail.GetRetryDelay().AsDuration()
		}
	}
	return reason, delay
}

// isPassing says whether trying again may help. All else is final, FENCED above all.
func isPassing(err error) bool {
	if errors.Is(err, errSilent) || errors.Is(err, errBrokenOff) {
		return true
	}
	code := status.Code(err)
	switch reason, _ := reasonOf(err); reason {
	case "STORAGE_FULL", "LIMIT_REACHED":
		return true
	case "":
		// Not the server's word: the connection broke, in one of the ways that HTTP/2 has.
		switch code {
		case codes.Unavailable, codes.Canceled, codes.DeadlineExceeded, codes.Unknown, codes.Internal:
			return true
		}
		return false
	default:
		return code == codes.Unavailable
	}
}

// A place in the journal; of another journal or filter, the same sequence is another event.
type place struct {
	sequence uint64
	cursor   string
}

type consumer struct {
	address, subscription string

	mu        sync.Mutex // for what follows, up to `committed`
	conn      *grpc.ClientConn
	session   string // the right to commit, given with each stream
	sent      uint64 // how far this session was sent events
	handled   place  // what is done with
	committed string

	// Of the reading goroutine.
	journal  string
	filter   *pb.Filter
	hasBegun bool
}

// --- committing -----------------------------------------------------------------------------

// commit commits what is done with, as far as this session may. One caller at a time.
func (c *consumer) commit(ctx context.Context) error {
	c.mu.Lock()
	conn, session, handled := c.conn, c.session, c.handled
	// A session commits no more than it was sent.
	nothing := session == "" || handled.cursor == c.committed || handled.sequence > c.sent
	c.mu.Unlock()
	if nothing {
		return nil
	}
	return c.commitCursor(ctx, conn, session, handled.cursor)
}

func (c *consumer) commitCursor(ctx context.Context, conn *grpc.ClientConn, session, cursor string) error {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	_, err := pb.NewSubscriptionServiceClient(conn).Commit(ctx, &pb.CommitRequest{
		SubscriptionId: c.subscription,
		Session:        session,
		Cursor:         cursor,
	})
	if err != nil {
		// Committed already, by a call whose answer was lost.
		if reason, _ := reasonOf(err); reason != "CURSOR_BEHIND" {
			return err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if session == c.session {
		c.committed = cursor
	}
	return nil
}

// commitForEver gives the error for which committing was refused for good.
func (c *consumer) commitForEver(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(commitInterval):
		}
		c.mu.Lock()
		session := c.session
		c.mu.Unlock()
		err := c.commit(ctx)
		c.mu.Lock()
		// What a session is told that is over by now says nothing about the one that is.
		isFinal := err != nil && !isPassing(err) && session == c.session
		c.mu.Unlock()
		if isFinal {
			return err
		}
	}
}

// --- reading --------------------------------------------------------------------------------

// connect makes a new connection, as the old one may be to a server that is gone.
func (c *consumer) connect() error {
	// Dial and WithInsecure are deprecated, and work with every 1.x; with TLS, which is what a
	// network wants, give grpc.WithTransportCredentials.
	conn, err := grpc.Dial(c.address,
		grpc.WithInsecure(),
		grpc.WithDisableRetry(), // waits are ours
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(messageBytesMax)),
	)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != nil {
		c.conn.Close()
	}
	c.conn = conn
	return nil
}

func (c *consumer) ensureSubscription(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	_, err := pb.NewSubscriptionServiceClient(c.conn).CreateSubscription(ctx, &pb.CreateSubscriptionRequest{
		SubscriptionId: c.subscription,
		Start:          &pb.CreateSubscriptionRequest_Position{Position: pb.Position_POSITION_EARLIEST},
	})
	if err != nil {
		if reason, _ := reasonOf(err); reason == "SUBSCRIPTION_EXISTS" {
			return nil
		}
	}
	return err
}

// settle commits under the session before, if there is one.
//
// So less comes again; and if another reader has taken over, this says FENCED, while subscribing
// would throw that reader off.
func (c *consumer) settle(ctx context.Context) error {
	c.mu.Lock()
	session, cursor := c.session, c.handled.cursor
	if c.handled.sequence > c.sent || cursor == "" {
		cursor = c.committed
	}
	// Whether the server hears Subscribe is known only by its answer, and with that the session
	// ends.
	c.session = ""
	c.mu.Unlock()
	if session == "" {
		return nil
	}
	err := c.commitCursor(ctx, c.conn, session, cursor)
	if err != nil && isPassing(err) {
		c.mu.Lock()
		c.session = session
		c.mu.Unlock()
	}
	return err
}

// read reads one stream to its end, which is an error.
func (c *consumer) read(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := pb.NewEventServiceClient(c.conn).Subscribe(ctx, &pb.SubscribeRequest{
		Start:  &pb.SubscribeRequest_SubscriptionId{SubscriptionId: c.subscription},
		OnGap:  pb.OnGap_ON_GAP_SKIP,
		Reader: "example of a consumer in Go",
	})
	if err != nil {
		return err
	}
	silence := answerTimeout
	var isSilent atomic.Bool
	for {
		watch := time.AfterFunc(silence, func() {
			isSilent.Store(true)
			cancel()
		})
		message, err := stream.Recv()
		watch.Stop()
		switch {
		case isSilent.Load():
			return errSilent
		case err == io.EOF:
			return errBrokenOff
		case err != nil:
			return err
		}
		if confirmation := message.GetConfirmation(); confirmation != nil {
			silence = silentHeartbeats * confirmation.GetHeartbeatInterval().AsDuration()
		}
		if err := c.takeMessage(ctx, message); err != nil {
			return err
		}
	}
}

func (c *consumer) takeMessage(ctx context.Context, message *pb.SubscribeResponse) error {
	switch kind := message.GetMessage().(type) {
	case *pb.SubscribeResponse_Confirmation:
		c.begin(kind.Confirmation)
	case *pb.SubscribeResponse_Batch:
		for _, event := range kind.Batch.GetEvents() {
			if err := c.take(ctx, event); err != nil {
				return err
			}
		}
	case *pb.SubscribeResponse_Heartbeat:
		c.passTo(kind.Heartbeat.GetCursor())
	case *pb.SubscribeResponse_CaughtUp:
		c.mu.Lock()
		// All that was handled before was in the journal when this stream began.
		if c.sent < c.handled.sequence {
			c.sent = c.handled.sequence
		}
		c.mu.Unlock()
		c.passTo(kind.CaughtUp.GetCursor())
	case *pb.SubscribeResponse_Gap:
		c.lose(kind.Gap)
	case *pb.SubscribeResponse_Ending:
		c.passTo(kind.Ending.GetCursor())
		switch kind.Ending.GetReason() {
		case pb.EndingReason_ENDING_REASON_MAX_AGE, pb.EndingReason_ENDING_REASON_SUBSCRIPTION_CHANGED:
			return errAgain
		}
		return errBrokenOff
	}
	// A kind that a newer server has is passed over.
	return nil
}

func (c *consumer) begin(confirmation *pb.Confirmation) {
	c.hasBegun = true
	c.mu.Lock()
	defer c.mu.Unlock()
	c.session = confirmation.GetSession()
	c.committed = confirmation.GetStartCursor()
	c.sent = 0
	journal, filter := confirmation.GetJournalId(), confirmation.GetEffectiveFilter()
	isAnother := c.filter != nil && (c.journal != journal || !proto.Equal(c.filter, filter))
	if isAnother || c.handled.cursor == "" {
		c.handled = place{cursor: confirmation.GetStartCursor()}
	}
	c.journal, c.filter = journal, filter
}

func (c *consumer) take(ctx context.Context, event *pb.StreamedEvent) error {
	// What was handled before the connection broke comes again; it is known by its sequence.
	isNew := event.GetSequence() > c.handled.sequence
	if isNew {
		if err := handle(event); err != nil {
			return err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sent = event.GetSequence()
	if isNew {
		c.handled = place{event.GetSequence(), event.GetCursor()}
	}
	return ctx.Err()
}

func (c *consumer) lose(gap *pb.Gap) {
	c.mu.Lock()
	defer c.mu.Unlock()
	first, last := gap.GetFirstLostSequence(), gap.GetLastLostSequence()
	if first <= c.handled.sequence {
		first = c.handled.sequence + 1
	}
	if first <= last {
		say("LOST: events %d to %d were removed before they could be read", first, last)
		c.handled = place{last, gap.GetResumeCursor()}
	}
	c.sent = last
}

// passTo takes note that all that is wanted up to a cursor was sent: so all of it is done with.
func (c *consumer) passTo(cursor string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sent >= c.handled.sequence {
		c.handled.cursor = cursor
	}
}

// run consumes until `stop` is done, which is no error, or until trying again does not help.
func (c *consumer) run(stop context.Context) error {
	ctx, cancel := context.WithCancel(stop)
	refused := make(chan error, 1)
	go func() {
		refused <- c.commitForEver(ctx)
		cancel()
	}()
	err := c.readForEver(ctx)
	cancel()
	if refusal := <-refused; refusal != nil {
		return refusal
	}
	if stop.Err() == nil {
		return err
	}
	// What is done with is done with.
	return c.commit(context.Background())
}

func (c *consumer) readForEver(ctx context.Context) error {
	isMade := false
	attempt := func() error {
		if err := c.connect(); err != nil {
			return err
		}
		if !isMade {
			if err := c.ensureSubscription(ctx); err != nil {
				return err
			}
			isMade = true
		}
		if err := c.settle(ctx); err != nil {
			return err
		}
		return c.read(ctx)
	}
	bound := backoffFirst
	for {
		err := attempt()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		hasBegun := c.hasBegun
		c.hasBegun = false
		if hasBegun {
			bound = backoffFirst
		}
		isAgain := errors.Is(err, errAgain)
		if isAgain && hasBegun {
			continue
		}
		if !isAgain && !isPassing(err) {
			return err
		}
		if bound == backoffFirst {
			say("%v; going on as soon as that passes", err)
		}
		_, asked := reasonOf(err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(asked + time.Duration(rand.Int63n(int64(bound)))):
		}
		if bound *= 2; bound > backoffMax {
			bound = backoffMax
		}
	}
}

func say(format string, values ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", values...)
}

// handle is your work. An error ends the consumer, so the event comes again when it is started anew.
func handle(event *pb.StreamedEvent) error {
	_, err := fmt.Println(event.GetSequence(), event.GetEvent().GetUuid())
	return err
}

func main() {
	if len(os.Args) != 3 {
		say("usage: consumer HOST:PORT SUBSCRIPTION")
		os.Exit(2)
	}
	rand.Seed(time.Now().UnixNano())
	stop, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer cancel()
	consumer := consumer{address: os.Args[1], subscription: os.Args[2]}
	if err := consumer.run(stop); err != nil {
		reason, _ := reasonOf(err)
		say("%s %v", reason, err)
		os.Exit(1)
	}
}
