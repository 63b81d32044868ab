// A consumer: handles each event of a named subscription, in order, and goes on where it was.
//
//   npm ci
//   provident proto proto
//   node consumer.js 127.0.0.1:50051 my-team proto
//
// Prints `SEQUENCE UUID` for each event; that is where your work belongs. At least once: after a
// crash of this program, what was handled and not yet committed comes again. Ends well on SIGTERM,
// and with an error when another reader takes over.
'use strict';

const fs = require('node:fs');
const path = require('node:path');
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');

const ANSWER_MS = 10_000; // how long a call, or the first message of a stream, may take
const BACKOFF_FIRST_MS = 200; // the longest first wait
const BACKOFF_MAX_MS = 15_000; // the longest wait of all
const COMMIT_MS = 1_000; // between two commits
const SILENT_HEARTBEATS = 3; // that may fail to come before a connection counts as dead
const MESSAGE_BYTES_MAX = 64 << 20;

const PASSING_CODES = [
  grpc.status.UNAVAILABLE,
  grpc.status.CANCELLED,
  grpc.status.DEADLINE_EXCEEDED,
  grpc.status.UNKNOWN,
  grpc.status.INTERNAL,
];

// --- the contract ---------------------------------------------------------------------------

// `google.rpc.Status` and its details, as far as they are needed.
const DETAILS = {
  nested: {
    Status: { fields: { details: { rule: 'repeated', type: 'Any', id: 3 } } },
    Any: { fields: { type_url: { type: 'string', id: 1 }, value: { type: 'bytes', id: 2 } } },
    ErrorInfo: { fields: { reason: { type: 'string', id: 1 } } },
    RetryInfo: { fields: { retry_delay: { type: 'Duration', id: 1 } } },
    Duration: { fields: { seconds: { type: 'int64', id: 1 }, nanos: { type: 'int32', id: 2 } } },
  },
};

function contract(directory) {
  const below = path.join(directory, 'provident/v1');
  const files = fs.readdirSync(below).filter((name) => name.endsWith('.proto'));
  const definition = loader.loadSync(
    files.map((name) => `provident/v1/${name}`),
    // Sequences are larger than what a number of JavaScript holds.
    { includeDirs: [directory], keepCase: true, longs: String, enums: String, oneofs: true },
  );
  return grpc.loadPackageDefinition(definition).provident.v1;
}

const details = loader.fromJSON(DETAILS, { keepCase: true, longs: Number });
const decode = (type, bytes) => details[type].deserialize(bytes);

/** The server's reason and how long it asks to wait; no reason if it is not the server's word. */
function reasonOf(error) {
  const found = { reason: '', delayMs: 0 };
  const bytes = error.metadata?.get('grpc-status-details-bin')[0];
  for (const any of bytes ? (decode('Status', bytes).details ?? []) : []) {
    if (any.type_url.endsWith('google.rpc.ErrorInfo')) {
      found.reason = decode('ErrorInfo', any.value).reason;
    } else if (any.type_url.endsWith('google.rpc.RetryInfo')) {
      found.delayMs = milliseconds(decode('RetryInfo', any.value).retry_delay);
    }
  }
  return found;
}

function milliseconds(duration) {
  return duration ? Number(duration.seconds ?? 0) * 1000 + (duration.nanos ?? 0) / 1e6 : 0;
}

/** What passes by itself, and is not the server's word. */
class Interrupted extends Error {}

/** The stream ended as planned, and there is nothing to wait for. */
class Again extends Error {}

/** This program was told to stop. */
class Stopped extends Error {}

/** Whether trying again may help. All else is final, FENCED above all. */
function isPassing(error) {
  if (error instanceof Interrupted) return true;
  if (error.code === undefined) return false;
  const { reason } = reasonOf(error);
  if (reason === 'STORAGE_FULL' || reason === 'LIMIT_REACHED') return true;
  if (reason) return error.code === grpc.status.UNAVAILABLE;
  return PASSING_CODES.includes(error.code);
}

// --- the consumer ---------------------------------------------------------------------------

class Consumer {
  constructor(address, subscription, protos) {
    this.address = address;
    this.subscription = subscription;
    this.v1 = contract(protos);
    this.session = ''; // the right to commit, given with each stream
    this.sent = 0n; // how far this session was sent events
    this.handled = { sequence: 0n, cursor: '' }; // what is done with
    this.committed = '';
    this.reads = undefined; // which journal, with which filter
    this.hasBegun = false;
    // Rejected when this is told to stop, or when committing is refused for good.
    this.end = new Promise((_, reject) => {
      this.stop = () => reject(new Stopped());
      this.refuse = reject;
    });
    this.end.catch(() => {});
  }

  /** New connections, as the old ones may be to a server that is gone. */
  connect() {
    this.close();
    const options = {
      'grpc.max_receive_message_length': MESSAGE_BYTES_MAX,
      // Waits are ours, and a channel of its own for each attempt.
      'grpc.enable_retries': 0,
      'grpc.use_local_subchannel_pool': 1,
    };
    const open = (Service) => new Service(this.address, grpc.credentials.createInsecure(), options);
    this.events = open(this.v1.EventService);
    this.subscriptions = open(this.v1.SubscriptionService);
  }

  close() {
    this.events?.close();
    this.subscriptions?.close();
  }

  call(method, request) {
    return new Promise((resolve, reject) => {
      const deadline = Date.now() + ANSWER_MS;
      this.subscriptions[method](request, { deadline }, (error, answer) =>
        error ? reject(error) : resolve(answer),
      );
    });
  }

  async ensureSubscription() {
    const request = { subscription_id: this.subscription, position: 'POSITION_EARLIEST' };
    try {
      await this.call('CreateSubscription', request);
    } catch (error) {
      if (reasonOf(error).reason !== 'SUBSCRIPTION_EXISTS') throw error;
    }
  }

  async commitCursor(session, cursor) {
    try {
      await this.call('Commit', { subscription_id: this.subscription, session, cursor });
    } catch (error) {
      // Committed already, by a call whose answer was lost.
      if (reasonOf(error).reason !== 'CURSOR_BEHIND') throw error;
    }
    if (session === this.session) this.committed = cursor;
  }

  /** Commits what is done with, as far as this session may. */
  async commit() {
    const { session, handled } = this;
    // A session commits no more than it was sent.
    if (!session || handled.cursor === this.committed || handled.sequence > this.sent) return;
    await this.commitCursor(session, handled.cursor);
  }

  async commitForEver() {
    for (;;) {
      await new Promise((resolve) => setTimeout(resolve, COMMIT_MS).unref());
      const { session } = this;
      try {
        await this.commit();
      } catch (error) {
        // What a session is told that is over by now says nothing about the one that is.
        if (!isPassing(error) && session === this.session) this.refuse(error);
      }
    }
  }

  /**
   * Before a new stream: commits under the session before, if there is one.
   *
   * So less comes again; and if another reader has taken over, this says FENCED, while subscribing
   * would throw that reader off.
   */
  async settle() {
    const { session, handled } = this;
    // Whether the server hears Subscribe is known only by its answer, and with that the session
    // ends.
    this.session = '';
    if (!session) return;
    const cursor = handled.sequence > this.sent ? this.committed : handled.cursor;
    try {
      await this.commitCursor(session, cursor);
    } catch (error) {
      if (isPassing(error)) this.session = session;
      throw error;
    }
  }

  /** Reads one stream to its end, which is an exception. */
  async read() {
    const call = this.events.Subscribe({
      subscription_id: this.subscription,
      on_gap: 'ON_GAP_SKIP',
      reader: 'example of a consumer in Node',
    });
    // A cancelled call says so as an error, which nobody waits for then.
    call.on('error', () => {});
    const messages = call[Symbol.asyncIterator]();
    let silenceMs = ANSWER_MS;
    try {
      for (;;) {
        const { done, value: message } = await this.within(silenceMs, messages.next());
        if (done) throw new Interrupted('the stream broke off');
        if (message.confirmation) {
          const interval = milliseconds(message.confirmation.heartbeat_interval);
          silenceMs = SILENT_HEARTBEATS * interval;
        }
        await this.takeMessage(message);
      }
    } finally {
      call.cancel();
    }
  }

  /** Waits for a message, but not for ever. */
  async within(ms, message) {
    let timer;
    const silence = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Interrupted(`no sign of life for ${ms} ms`)), ms);
    });
    try {
      return await Promise.race([message, silence, this.end]);
    } finally {
      clearTimeout(timer);
      // It may fail later, when nobody waits for it any more.
      message.catch(() => {});
    }
  }

  async takeMessage({ message: kind, ...message }) {
    switch (kind) {
      case 'confirmation':
        this.begin(message.confirmation);
        break;
      case 'batch':
        for (const event of message.batch.events) await this.take(event);
        break;
      case 'heartbeat':
        this.passTo(message.heartbeat.cursor);
        break;
      case 'caught_up':
        // All that was handled before was in the journal when this stream began.
        if (this.sent < this.handled.sequence) this.sent = this.handled.sequence;
        this.passTo(message.caught_up.cursor);
        break;
      case 'gap':
        this.lose(message.gap);
        break;
      case 'ending':
        this.passTo(message.ending.cursor);
        if (['ENDING_REASON_MAX_AGE', 'ENDING_REASON_SUBSCRIPTION_CHANGED'].includes(message.ending.reason)) {
          throw new Again();
        }
        throw new Interrupted('the server is stopping');
      default: // A kind that a newer server has is passed over.
    }
  }

  begin(confirmation) {
    this.hasBegun = true;
    this.session = confirmation.session;
    this.committed = confirmation.start_cursor;
    this.sent = 0n;
    const reads = JSON.stringify([confirmation.journal_id, confirmation.effective_filter]);
    // Of another journal, or through another filter, the same sequences are other events.
    if (!this.handled.cursor || (this.reads !== undefined && this.reads !== reads)) {
      this.handled = { sequence: 0n, cursor: confirmation.start_cursor };
    }
    this.reads = reads;
  }

  async take(event) {
    const sequence = BigInt(event.sequence);
    // What was handled before the connection broke comes again; it is known by its sequence.
    if (sequence > this.handled.sequence) {
      await handle(event);
      this.handled = { sequence, cursor: event.cursor };
    }
    this.sent = sequence;
  }

  lose(gap) {
    const last = BigInt(gap.last_lost_sequence);
    let first = BigInt(gap.first_lost_sequence);
    if (first <= this.handled.sequence) first = this.handled.sequence + 1n;
    if (first <= last) {
      say(`LOST: events ${first} to ${last} were removed before they could be read`);
      this.handled = { sequence: last, cursor: gap.resume_cursor };
    }
    this.sent = last;
  }

  /** All that is wanted up to a cursor has been sent: so all of it is done with. */
  passTo(cursor) {
    if (this.sent >= this.handled.sequence) {
      this.handled = { sequence: this.handled.sequence, cursor };
    }
  }

  async run() {
    this.commitForEver();
    let attempts = 0;
    let isMade = false;
    for (;;) {
      try {
        this.connect();
        if (!isMade) await this.ensureSubscription();
        isMade = true;
        await this.settle();
        await this.read();
      } catch (error) {
        if (error instanceof Stopped) {
          // What is done with is done with.
          await this.commit();
          this.close();
          return;
        }
        if (this.hasBegun) attempts = 0;
        if (error instanceof Again && this.hasBegun) {
          this.hasBegun = false;
          continue;
        }
        if (!isPassing(error) && !(error instanceof Again)) throw error;
        this.hasBegun = false;
        if (attempts === 0) say(`${error.message}; going on as soon as that passes`);
        const bound = Math.min(BACKOFF_MAX_MS, BACKOFF_FIRST_MS * 2 ** Math.min(attempts, 20));
        attempts += 1;
        const asked = error instanceof Again ? 0 : reasonOf(error).delayMs;
        const wait = asked + Math.random() * bound;
        const isStopped = await Promise.race([
          new Promise((resolve) => setTimeout(() => resolve(false), wait)),
          this.end.catch(() => true),
        ]);
        // There is no stream to commit with; what is not committed comes again.
        if (isStopped) return this.end.catch((why) => {
          if (!(why instanceof Stopped)) throw why;
        });
      }
    }
  }
}

function say(text) {
  process.stderr.write(`${text}\n`);
}

/** Your work. An exception ends the consumer, so the event comes again when it is started anew. */
async function handle(event) {
  // Written when this returns, unlike what console.log is given when it goes to a pipe.
  fs.writeSync(1, `${event.sequence} ${event.event.uuid}\n`);
}

async function main() {
  const [address, subscription, protos] = process.argv.slice(2);
  if (!protos) {
    say('usage: consumer.js HOST:PORT SUBSCRIPTION PROTO_DIRECTORY');
    process.exit(2);
  }
  const consumer = new Consumer(address, subscription, protos);
  for (const signal of ['SIGTERM', 'SIGINT']) process.on(signal, consumer.stop);
  try {
    await consumer.run();
    process.exit(0);
  } catch (error) {
    say(`${error.code === undefined ? '' : reasonOf(error).reason} ${error.message}`.trim());
    process.exit(1);
  }
}

main();
