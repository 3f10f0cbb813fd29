//! Every queue, batch, window, file and retry of the agent has its bound here, with a unit, and says what
//! happens past it. Limits that belong to a byte layout live beside that layout in `understudy-types`.

/// Uncompressed bytes of operations in one batch. Past it the batch is sealed and a new one begun.
pub const BATCH_BYTES_MAX: usize = 1 << 20;
/// Operations in one batch. Past it the batch is sealed and a new one begun.
pub const BATCH_OPS_MAX: usize = 4096;

/// Bytes of one message body. A larger one is refused by central storage and its account is parked, with the reason.
pub const BLOB_BYTES_MAX: u64 = 512 << 20;
/// Bodies that one look at the spool takes up. The rest waits for the next look.
pub const SPOOL_FILES_MAX: usize = 100_000;
/// Threads that move bodies from the spool to central storage.
pub const UPLOADERS: usize = 4;
/// First wait before a failed upload is tried again, in milliseconds; doubles up to [`UPLOAD_RETRY_MS_MAX`].
pub const UPLOAD_RETRY_MS_MIN: u64 = 20;
/// Longest wait between two tries of an upload, in milliseconds. Tries never end: the spool keeps the body.
pub const UPLOAD_RETRY_MS_MAX: u64 = 5_000;

/// Time to connect to an S3 server, in milliseconds. Past it the request fails and is tried again later.
pub const S3_CONNECT_MS_MAX: u64 = 3_000;
/// Time for one request to an S3 server, its retries included, in milliseconds: the largest body at 5 MB a second.
pub const S3_REQUEST_MS_MAX: u64 = 120_000;
/// Retries of a request within the client. Past it the request fails and is tried again later.
pub const S3_RETRIES_MAX: usize = 2;
/// For how long a body that was seen whole in S3 is taken for stored without another look, in milliseconds.
pub const S3_KNOWN_MS_MAX: u64 = 60_000;
/// Bodies of which that is remembered. Past it all are forgotten, and looked at again.
pub const S3_KNOWN_MAX: usize = 16_384;

/// Messages of one account whose newest flags a replica remembers. The oldest is forgotten past it.
pub const FILTER_FLAGS_MAX: usize = 16_384;
/// Expunged messages of one account that a replica remembers. The oldest is forgotten past it.
pub const FILTER_TOMBSTONES_MAX: usize = 65_536;
/// Deleted mailboxes of one account that a replica remembers. The oldest is forgotten past it.
pub const FILTER_MAILBOXES_MAX: usize = 4_096;
/// First wait before a parked account is tried again, in milliseconds; doubles up to [`PARK_RETRY_MS_MAX`].
pub const PARK_RETRY_MS_MIN: u64 = 5;
/// Longest wait between two tries of a parked account, in milliseconds. Tries never end.
pub const PARK_RETRY_MS_MAX: u64 = 5_000;
/// How long an account may wait for a body before it counts as set aside, in milliseconds: a body and the operation
/// that names it travel by different ways, and either may be the first.
pub const BODY_GRACE_MS: u64 = 2_000;
/// Longest wait for a snapshot that was asked for, in milliseconds. Past it, it is asked for again.
pub const RESYNC_ASK_MS: u64 = 10_000;
/// After a snapshot that did not make an account equal, the next one is asked for after twice this, in milliseconds,
/// then four times, up to 64 times.
pub const SNAPSHOT_RETRY_MS: u64 = 500;
/// Bytes of frames that an apply worker reads at once.
pub const APPLY_READ_BYTES: usize = 1 << 20;
/// Operations that are sent to the store at once. More go in several requests.
pub const APPLY_OPS_MAX: usize = 256;
/// Operations before the cursor that are looked at after a restart, to know the newest flags again.
pub const APPLY_REMEMBER_OPS: u64 = 2_000;
/// Tries to lock the journal, [`JOURNAL_LOCK_PAUSE_MS`] apart. Past it another agent has it.
pub const JOURNAL_LOCK_TRIES: u32 = 100;
/// Pause between two tries to lock the journal, in milliseconds.
pub const JOURNAL_LOCK_PAUSE_MS: u64 = 20;
/// Frames that wait for the journal's thread. Past it `Journal::append` gives the frame back (`Busy`).
pub const JOURNAL_QUEUE_FRAMES_MAX: usize = 4096;
/// Bytes of frames that wait for the journal's thread. Past it `Journal::append` gives the frame back (`Busy`).
pub const JOURNAL_QUEUE_BYTES_MAX: usize = 64 << 20;
/// Answers of the journal that wait for their reader. Past it the journal's thread waits, and its queue fills.
pub const JOURNAL_EVENTS_MAX: usize = 65_536;
/// Plans that bring one account to its snapshot, beside two for each of its mailboxes. Past it the account is parked
/// with the difference that is left.
pub const PLAN_ROUNDS_MAX: usize = 24;
/// Processes of the store whose /proc files are read each second. Past it the rest is counted as unread.
pub const PROC_TREE_READ_MAX: usize = 1024;
/// Calls in flight that one look asks what they wait for. Past it they do not count as work.
pub const STALL_ASKED_MAX: usize = 64;
/// Samples of the probe that wait for their reader. Past it the newest is dropped and counted.
pub const PROBE_SAMPLES_MAX: usize = 8;
/// Kernel events that wait for their reader. Past it the newest is dropped and counted.
pub const PROBE_EVENTS_MAX: usize = 4096;
/// How often a replica's cursor is made durable, in milliseconds. A crash of the host repeats at most so much.
pub const CURSOR_DURABLE_MS: u64 = 200;
/// Accounts of one group whose recent operations a replica remembers. Past it all are forgotten and learnt anew.
pub const FILTER_ACCOUNTS_MAX: usize = 50_000;
/// How long an apply worker sleeps when it has nothing to do and is not woken, in milliseconds.
pub const APPLY_IDLE_MS: u64 = 1_000;
/// How long an apply worker waits after the store could not be asked, in milliseconds.
pub const APPLY_STORE_RETRY_MS: u64 = 100;

/// Bytes of a pause's reason or owner. Longer ones are refused.
pub const PAUSE_TEXT_BYTES_MAX: usize = 500;
/// Pauses in force at one time. Past it no more are taken.
pub const PAUSES_MAX: usize = 1_000;
/// Operations in one request that brings messages back. More go in several.
pub const RESTORE_MESSAGES_MAX: usize = 128;
/// Problems of an undo that its report names.
pub const UNDO_PROBLEMS_MAX: usize = 10;
/// How long a peer may take over an undo, in milliseconds. Past it the undo goes on, and its report is lost.
pub const UNDO_MS_MAX: u64 = 600_000;
/// How long bodies that are not in central storage yet may take to get there before an undo, in milliseconds.
pub const UNDO_UPLOAD_MS_MAX: u64 = 60_000;
/// How many times an account's habit is a storm.
pub const BRAKE_FACTOR: u64 = 10;
/// After so many minutes an account's habit counts half: 30 days.
pub const BRAKE_HABIT_HALF_MINUTES: u64 = 30 * 24 * 60;
/// How many operations the deletion of one mailbox counts as.
pub const BRAKE_MAILBOX_WEIGHT: u64 = 10;
/// How long expunges wait for a deletion of their mailbox where only those are held, in seconds.
pub const EXPUNGE_GRACE_S: u64 = 5;
/// Expunges so long before the deletion of their mailbox are part of it, in seconds.
pub const MAILBOX_DELETE_SPAN_S: u64 = 60;
/// Held operations of one account. Past it the oldest are applied before their time, which is said in the log.
pub const HELD_ACCOUNT_OPS_MAX: usize = 200_000;
/// How often a group's held operations are looked at, in milliseconds.
pub const HELD_LOOK_MS: u64 = 1_000;
/// Wait before held operations whose time has come are tried again after the store refused them, in milliseconds.
pub const HELD_RETRY_MS: u64 = 10_000;
/// Operations of an account that are sent to the store alone, after the store died twice over the account.
pub const POISON_SUSPECT_TRIES: u32 = 2;
/// Deaths of the store over one account in a row after which the account is set aside.
pub const POISON_TRIES_MAX: u32 = 5;
/// Wait before an account that killed the store is tried again, in milliseconds; an administrator may say "now".
pub const POISON_RETRY_MS: u64 = 600_000;

/// Bytes of frames that a peer may have sent and this node not yet journaled, per connection. Past it the peer waits.
/// At least two of the largest frames, so that one is under way while the other is journaled.
pub const CREDIT_BYTES: u64 = 8 << 20;
/// Bytes of messages that wait for one connection. Past it `send` answers `Full` and the sender keeps the message.
pub const LINK_QUEUE_BYTES_MAX: usize = 16 << 20;
/// Messages that wait for one connection. Past it `send` answers `Full`.
pub const LINK_QUEUE_MESSAGES_MAX: usize = 8192;
/// Connections that have not said whose they are. Past it a new one is closed at once.
pub const LINKS_UNKNOWN_MAX: usize = 64;
/// Bytes that are read from a connection at once.
pub const LINK_READ_BYTES: usize = 64 << 10;
/// Bytes that are written to a connection at once, before encryption.
pub const LINK_WRITE_BYTES: usize = 128 << 10;
/// Bytes of a certificate or key file. A larger one is refused.
pub const PEM_BYTES_MAX: u64 = 256 << 10;
/// Seconds between two looks at the certificate files.
pub const CERTIFICATE_CHECK_S: u64 = 10;
/// Time to connect and get through TLS and Hello, in milliseconds. Past it the connection is closed.
pub const HANDSHAKE_MS_MAX: u64 = 10_000;
/// Time between two pings on a connection, in milliseconds.
pub const KEEPALIVE_MS: u64 = 1_000;
/// Silence after which a connection counts as dead and is closed, in milliseconds.
pub const SILENCE_MS_MAX: u64 = 5_000;
/// Shortest wait before a peer is dialled again, in milliseconds; doubles with every try.
pub const REDIAL_MS_MIN: u64 = 50;
/// Longest wait before a peer is dialled again, in milliseconds. Tries never end.
pub const REDIAL_MS_MAX: u64 = 5_000;
/// Time for the last bytes of a connection that is being closed, in milliseconds. Past it they are dropped.
pub const LINK_FLUSH_MS_MAX: u64 = 1_000;

const _: () = assert!(
    CREDIT_BYTES >= 2 * (understudy_types::frame::FRAME_BYTES_MAX as u64 + 64),
    "credit must let the largest frame through"
);

/// Bytes shipped of one group to one peer and not acknowledged. Past it nothing more of the group is shipped there.
pub const SHIP_WINDOW_BYTES: u64 = 4 << 20;
/// Bytes of frames that are read from the journal at once for one group and peer.
pub const SHIP_READ_BYTES: u64 = 1 << 20;
/// Frames of a group whose size, time and hash are remembered. Past it the oldest is forgotten: lag older than that
/// is given as a lower bound, and its hash is asked of the journal.
pub const SHIP_FRAMES_MAX: usize = 2048;
/// Wait before an acknowledgement that only says `applied`, in milliseconds, so that many become one message.
pub const ACK_APPLIED_MS: u64 = 20;
/// Bytes of credit that are collected before they are given back, unless an acknowledgement goes out anyway.
pub const CREDIT_RETURN_BYTES: u64 = 256 << 10;
/// Peers whose beats are kept. Past it a beat of one more is not taken, and said so.
pub const BEAT_PEERS_MAX: usize = 256;
/// Records that the capture thread takes before it looks at its orders again.
pub const CAPTURE_BURST_MAX: usize = 1_024;
/// Longest sleep of the capture thread, in milliseconds.
pub const CAPTURE_WAIT_MS: u64 = 200;
/// Captured operations that wait for the event loop. Past it the capture thread waits, and the ring fills.
pub const CAPTURE_QUEUE_MAX: usize = 16_384;
/// Frames of one group that are on their way to disk at one time. Past it the batch grows instead.
pub const FRAMES_IN_FLIGHT_MAX: usize = 2;
/// Accounts that are exported at one time. More wait.
pub const EXPORTS_AT_ONCE: usize = 2;
/// Wait before a failed export is tried again, in milliseconds. Tries never end; the account is named in `status`.
pub const EXPORT_RETRY_MS: u64 = 2_000;

/// Longest time without a byte from the store's replay service while it puts bodies into the spool, in milliseconds.
/// Past it the connection is dropped and the call fails.
pub const STORE_TIMEOUT_MS: u64 = 120_000;
/// As [`STORE_TIMEOUT_MS`], for a dump without bodies, which begins with a look at every file of a folder.
pub const STORE_DUMP_MS_MAX: u64 = 30_000;
/// As [`STORE_DUMP_MS_MAX`], for a dump that is exported: longer than Dovecot waits for the lock file that a renamed
/// folder of a Maildir took along (two minutes); one that is given up before would be waited for in vain each time.
pub const STORE_EXPORT_MS_MAX: u64 = 200_000;
/// As [`STORE_TIMEOUT_MS`], for other requests. Past it the account is set aside for a moment, so that it holds up no
/// other: a killed process may leave a lock behind that the store respects for two minutes. What the service still
/// does of the request comes before the next one of the account.
pub const STORE_ANSWER_MS_MAX: u64 = 5_000;
/// Operations or accounts in one request to the store; the service refuses more than 65,536. Past it they go in
/// several.
pub const STORE_REQUEST_OPS_MAX: usize = 8_192;
/// Bytes of operations in one request to the store; the service refuses more than 64 MiB. Past it they go in several.
pub const STORE_REQUEST_BYTES: usize = 16 << 20;
/// Mailboxes of one account whose counters are kept in memory at a time. Past it the store's answer is refused.
pub const STORE_MAILBOXES_MAX: usize = 1_000_000;
/// Bytes of one reply of the store. Past it the connection is dropped: the service keeps to 64 MiB.
pub const STORE_REPLY_BYTES_MAX: usize = 64 << 20;
/// Tries of one comparison before its result stands.
pub const VERIFY_TRIES: u32 = 5;
/// Pause between two tries of a comparison, in milliseconds.
pub const VERIFY_PAUSE_MS: u64 = 200;
/// How long a replica may take to reach the position that is asked for, in milliseconds.
pub const VERIFY_WAIT_MS: u64 = 10_000;
/// Threads that answer requests of peers.
pub const ANSWERERS: usize = 2;
/// Requests of peers that wait for such a thread. Past it they are answered "busy".
pub const REQUESTS_WAITING_MAX: usize = 256;
/// How long a peer may take to answer a request, in milliseconds.
pub const ASK_MS_MAX: u64 = 30_000;
/// Bytes of the longest answer that is taken from a peer: the state of an account of about two million messages.
pub const REPLY_BYTES_MAX: usize = 512 << 20;
/// How long the event loop may take to answer a question of a control thread, in milliseconds.
pub const QUERY_MS_MAX: u64 = 5_000;
/// How long a status waits until what the ring held when it was asked for is taken, in milliseconds. Past it no account
/// is told to be equal.
pub const STATUS_WAIT_MS: u64 = 250;
/// Events of one kind that wait for the event loop. Past it their senders wait.
pub const EVENTS_MAX: usize = 8_192;
/// Events of one kind that the event loop takes before it looks at the others.
pub const TURN_EVENTS_MAX: usize = 512;
/// How often the event loop looks at its times when nothing happens, in milliseconds.
pub const TURN_MS_MAX: u64 = 20;
/// How often segments that nobody needs are let go, in milliseconds.
pub const RETAIN_MS: u64 = 5_000;
/// Pause between two accounts of the background comparison, in milliseconds.
pub const COMPARE_PAUSE_MS: u64 = 2_000;
/// Pause between two listings of the store's users, in milliseconds.
pub const CENSUS_PAUSE_MS: u64 = 900_000;
/// Wait before a listing of the store's users that failed is tried again, in milliseconds.
pub const CENSUS_RETRY_MS: u64 = 5_000;
/// Users that are told to the event loop at once. More go in several portions.
pub const CENSUS_NAMES_MAX: usize = 256;
/// Bytes of recent frames that the journal keeps in memory for shippers. Older ones are read from disk.
pub const JOURNAL_CACHE_BYTES: usize = 64 << 20;
/// Store processes of one group that wait for an acknowledgement. The oldest is forgotten past it; the ring has at most
/// 4,096 slots to wait in, so it has given up.
pub const ACKS_WAITING_MAX: usize = 8_192;
/// How long a body may stay away before the account's active is asked to export it again, in milliseconds; also the
/// pause between two such questions.
pub const BODY_ASK_MS: u64 = 15_000;
/// Age of a half-written file in the spool at which it is removed, in seconds: no delivery takes so long.
pub const SPOOL_TMP_AGE_S_MAX: u64 = 3_600;
/// How often the replay service is asked who it is, in milliseconds.
pub const VERSION_ASK_MS: u64 = 5_000;

/// How often the decider of failover is told that time passed, in milliseconds.
pub const COUNCIL_TICK_MS: u64 = 20;
/// Longest wait of a stopping agent for its council, in milliseconds. Past it the agent stops all the same.
pub const COUNCIL_END_MS_MAX: u64 = 500;
/// Groups in one word between deciders. More go in several.
pub const COUNCIL_GROUPS_MAX: usize = 4_096;
/// Orders of administrators that wait for the decider. Past it the oldest is given up.
pub const ORDERS_WAITING_MAX: usize = 256;
/// Words of the decider that are kept for `status` and `explain`. Past it the oldest goes.
pub const SAID_MAX: usize = 1_000;
/// Threads that raise UIDs after a promotion.
pub const RAISERS: usize = 4;
/// Wait before an account that could not be raised is tried again, in milliseconds. Tries never end; the account is not
/// served meanwhile.
pub const RAISE_RETRY_MS: u64 = 200;
/// How often the decider of failover is told how groups stand, in milliseconds; at once while they change their roles.
pub const STANDS_MS: u64 = 100;
/// For how long a login is held while its group changes nodes, in milliseconds. Past it the client is told to come
/// again. Less than the second after which nginx takes an agent for dead, and asks another.
pub const ROUTING_HOLD_MS_MAX: u64 = 700;
/// Pause between two looks whether a held login may go on, in milliseconds.
pub const ROUTING_HOLD_PAUSE_MS: u64 = 10;

/// Connections of proxies and balancers at one time, for each listener of `[routing]`. Past it new ones wait.
pub const ROUTING_CONNECTIONS_MAX: usize = 1024;
/// Bytes of the head of an HTTP request to `[routing]`. Past it the request is refused (431).
pub const ROUTING_HEAD_BYTES_MAX: usize = 16 << 10;
/// Headers of such a request. Past it the request is refused (431).
pub const ROUTING_HEADERS_MAX: usize = 64;
/// Time for the head of such a request, in milliseconds; also how long a connection may stay without one. Past it the
/// connection is closed.
pub const ROUTING_HEAD_MS_MAX: u64 = 5_000;
/// Bytes of a login name as nginx escapes it: every byte of the longest account as `%XX`. Past it the login is refused.
pub const ROUTING_NAME_BYTES_MAX: usize = 3 * understudy_types::op::ACCOUNT_BYTES_MAX;
/// Seconds that nginx waits before it tells a client that its login was refused.
pub const ROUTING_LOGIN_WAIT_S: u32 = 2;
/// Refused logins on one connection. Past it nginx closes the connection.
pub const ROUTING_LOGIN_ATTEMPTS_MAX: u32 = 10;
/// Time to connect to a store of which nothing is heard, in milliseconds. Past it, it counts as gone.
pub const ROUTING_REACH_MS_MAX: u64 = 500;
/// For how long the result of such an attempt is believed, in milliseconds.
pub const ROUTING_REACH_KEPT_MS: u64 = 1_000;
/// Pause after a connection that could not be accepted, in milliseconds.
pub const ROUTING_ACCEPT_PAUSE_MS: u64 = 100;
/// Age at which what the event loop said of itself counts as nothing, in milliseconds: it says it every second.
pub const ROUTING_HEALTH_AGE_MS_MAX: u64 = 5_000;
/// Bytes of a request of the socketmap: the longest address, and room for the map's name. Past it the connection is
/// closed.
pub const SOCKETMAP_REQUEST_BYTES_MAX: usize = 4096;
/// Time without a request after which a socketmap connection is closed, in milliseconds: Postfix ends it itself after
/// 100 s.
pub const SOCKETMAP_IDLE_MS_MAX: u64 = 300_000;
/// Characters of the reason in an answer to HAProxy. What is longer is cut.
pub const AGENT_CHECK_REASON_BYTES_MAX: usize = 200;
/// How long an agent-check waits until HAProxy has closed, in milliseconds, so that the answer is not lost.
pub const AGENT_CHECK_MS_MAX: u64 = 500;
/// Received positions whose time a replica remembers for each group. Past it new ones are not noted, and the lag is
/// given too high.
pub const LAG_SAMPLES_MAX: usize = 600;

/// Longest time between two rounds of the disk canary, in milliseconds; a fifth of `failover.store_stall_ms` if that is
/// less. A round that hangs is not followed by another.
pub const EVIDENCE_DISK_MS: u64 = 200;
/// As [`EVIDENCE_DISK_MS`], for the store canary.
pub const EVIDENCE_STORE_MS: u64 = 250;
/// Shortest time between two rounds of a canary, in milliseconds, however short the bound is.
pub const EVIDENCE_ROUND_MS_MIN: u64 = 20;
/// How often the evidence is told, and the store's first process looked at, in milliseconds.
pub const EVIDENCE_TELL_MS: u64 = 100;
/// Bytes that the disk canary writes in each round: the least that a file system writes.
pub const EVIDENCE_DISK_BYTES: usize = 4096;
/// Bytes for which the disk canary must find room. Less room than that counts as a full file system.
pub const EVIDENCE_SPACE_BYTES: u64 = 64 << 10;
/// Every so many rounds the disk canary looks for room.
pub const EVIDENCE_SPACE_ROUNDS: u64 = 5;
/// Good rounds of the disk canary after one that failed, before it counts as good.
pub const EVIDENCE_DISK_ROUNDS_MIN: u32 = 5;
/// Readings that wait to be judged. Past it new ones are dropped; the next of the same sign says it again.
pub const EVIDENCE_READINGS_MAX: usize = 64;
/// Age of a sign at which the evidence names it as late, in nanoseconds. It changes no decision.
pub const EVIDENCE_LATE_NS: u64 = 700_000_000;
/// Age of the kernel probe's last look at which it counts as unseen, in nanoseconds: it looks every 250 ms.
pub const EVIDENCE_LOOK_NS_MAX: u64 = 1_000_000_000;
/// Age of a call in flight, when the kernel probe looks, from which it counts as not returned, in nanoseconds.
pub const EVIDENCE_CALL_NS_MIN: u64 = 200_000_000;

/// Intervals between beats of one peer that are remembered. The oldest is forgotten past it.
pub const SUSPICION_INTERVALS_MAX: usize = 64;
/// Highest level of suspicion, in thousandths: no more is told.
pub const SUSPICION_PHI_MILLI_MAX: u32 = 100_000;
/// Time without a look at the peers, in nanoseconds, after which this process was itself away: suspicion begins anew.
pub const SUSPICION_AWAY_NS: u64 = 1_000_000_000;
/// Change of a level of suspicion, in thousandths, that the decider is told of. Smaller ones say nothing.
pub const SUSPICION_CHANGE_MILLI: u32 = 250;
/// Time between two looks at the levels, in nanoseconds.
pub const SUSPICION_LOOK_NS: u64 = 200_000_000;
/// Points of the local health: past it, it does not get worse.
pub const HEALTH_POINTS_MAX: u32 = 8;
/// Points from which a node's word on others does not count.
pub const HEALTH_POINTS_LATE: u32 = 2;
/// How late a beat or a turn of the event loop may be, in nanoseconds, before it costs a point.
pub const HEALTH_LATE_NS: u64 = 200_000_000;
/// As [`HEALTH_LATE_NS`], for as many points as make the node late at once.
pub const HEALTH_AWAY_NS: u64 = 1_000_000_000;
/// Share of a second in which some task waited for a processor, in permille, from which what is late costs one point
/// more.
pub const HEALTH_CPU_PERMILLE: u16 = 900;
/// Time without anything late that takes one point back, in nanoseconds.
pub const HEALTH_MEND_NS: u64 = 1_000_000_000;

const _: () = assert!(
    EVIDENCE_DISK_ROUNDS_MIN as u64 >= EVIDENCE_SPACE_ROUNDS,
    "a file system that was full must be looked at for room before it counts as good"
);

/// Bytes of a key of the coordinator, without the cluster's prefix. A longer one is refused before it is sent.
pub const COORDINATOR_KEY_BYTES_MAX: usize = 256;
/// Bytes of a value of the coordinator. A longer one is refused before it is sent.
pub const COORDINATOR_VALUE_BYTES_MAX: usize = 64 << 10;
/// Conditions, and writes, of one transaction. Past it, it is refused before it is sent; etcd refuses 129 by default.
pub const COORDINATOR_TXN_MAX: usize = 64;
/// Bytes of all values of one transaction. As [`COORDINATOR_TXN_MAX`]; etcd refuses requests of 1.5 MiB by default.
pub const COORDINATOR_TXN_BYTES_MAX: usize = 1_280_000;
/// Longest time to live of a key, in milliseconds. A longer one is refused before it is sent.
pub const COORDINATOR_TTL_MS_MAX: u64 = 86_400_000;
/// Keys of one cluster. Past it a snapshot fails, and the embedded coordinator refuses the change.
pub const COORDINATOR_KEYS_MAX: usize = 65_536;
/// Bytes of keys and values of one cluster. As [`COORDINATOR_KEYS_MAX`].
pub const COORDINATOR_BYTES_MAX: usize = 64 << 20;
/// Time for one call of the coordinator until the round trips were measured, in milliseconds. Past it the call fails.
pub const COORDINATOR_TIMEOUT_MS: u64 = 1_000;
/// Shortest time-out made of measured round trips, in milliseconds: one pause of a virtual machine is no failure.
pub const COORDINATOR_TIMEOUT_MS_MIN: u64 = 200;
/// Round trips of the slowest of a hundred requests that fit into a time-out.
pub const COORDINATOR_TIMEOUT_P99_TIMES: u64 = 8;
/// Transactions that are under way at one time. Past it a new one is answered `Unreachable` at once.
pub const COORDINATOR_QUEUE_MAX: usize = 64;
/// Answers to transactions past [`COORDINATOR_QUEUE_MAX`] that wait to be given. Past it they are not given.
pub const COORDINATOR_TURNED_AWAY_MAX: usize = 4_096;
/// How much longer than the time-out a transaction may stay without an answer, in milliseconds: a disk that hangs keeps
/// the embedded coordinator from noticing. Past it, it is answered `Unknown`.
pub const COORDINATOR_GRACE_MS: u64 = 200;
/// Round trips of which percentiles are made. Past it the oldest is forgotten.
pub const COORDINATOR_RTTS_MAX: usize = 2_048;
/// First wait before a lost watch or connection is begun again, in milliseconds; doubles up to
/// [`COORDINATOR_RETRY_MS_MAX`].
pub const COORDINATOR_RETRY_MS_MIN: u64 = 20;
/// Longest such wait, in milliseconds. Tries never end.
pub const COORDINATOR_RETRY_MS_MAX: u64 = 1_000;
/// Events of a watch that wait for their sink. Past it the watch waits.
pub const COORDINATOR_EVENTS_MAX: usize = 64;
/// Time to connect to a member of etcd, TLS included, in milliseconds. Past it the next try begins.
pub const ETCD_CONNECT_MS_MAX: u64 = 3_000;
/// How often a member of etcd is asked how it is, in milliseconds.
pub const ETCD_HEALTH_MS: u64 = 1_000;
/// Time for its answer, in milliseconds. Past it another member is asked first, and this one is connected to anew.
pub const ETCD_HEALTH_MS_MAX: u64 = 2_000;
/// Silence of a watch after which etcd is asked for a sign, in milliseconds.
pub const ETCD_WATCH_PROGRESS_MS: u64 = 500;
/// Such signs that may fail to come. Past it the watch is lost.
pub const ETCD_WATCH_SILENCES_MAX: u32 = 6;
/// Keys that are read at once for a snapshot of etcd. The rest follows, at the same revision.
pub const ETCD_PAGE_KEYS: i64 = 200;
/// Bytes of the longest message of etcd: a page of the largest values, and their keys.
pub const ETCD_MESSAGE_BYTES_MAX: usize = 16 << 20;
/// Keys with a time to live that one handle keeps alive in etcd. Past it such a write is refused.
pub const ETCD_LEASES_MAX: usize = 256;
/// Bytes of the file with etcd's password.
pub const ETCD_PASSWORD_BYTES_MAX: u64 = 4096;
/// How often a watch of the embedded coordinator looks whether anything changed, in milliseconds.
pub const EMBEDDED_WATCH_MS: u64 = 20;
/// Pause between two tries to lock the embedded coordinator, in milliseconds.
pub const EMBEDDED_LOCK_PAUSE_MS: u64 = 1;
/// For how long a watch may be unable to look, in milliseconds. Past it the watch is lost.
pub const EMBEDDED_SILENCE_MS_MAX: u64 = 3_000;
/// Bytes that the log of the embedded coordinator may grow beyond eight times what it holds. Past it, it is written
/// anew.
pub const EMBEDDED_LOG_SLACK_BYTES: u64 = 1 << 20;
/// Bytes of that log that are read at most. A longer one is not ours, and is refused.
pub const EMBEDDED_LOG_BYTES_MAX: u64 = 1 << 30;

/// Groups that one transaction of failover changes. More go in several.
pub const FAILOVER_TXN_GROUPS_MAX: usize = 32;
/// How long after its first sight of the coordinator a node takes the lease of one that it never saw for run out, in
/// milliseconds: nodes of a cluster that starts need not start at one moment.
pub const FAILOVER_START_GRACE_MS: u64 = 10_000;
/// What others wait on top of a lease and the drift of clocks, in milliseconds: two clocks are read, rounded.
pub const FAILOVER_MARGIN_MS: u64 = 20;
/// Time to live of a lease's key, in milliseconds, if ten leases are shorter. A backstop that tidies up after a node
/// that was taken away for good; much longer than a lease, so that a silent coordinator costs no lease that peers
/// confirm.
pub const FAILOVER_TTL_MS_MIN: u64 = 60_000;
/// Wait until everything is read anew because nobody knows whether a transaction was done, in milliseconds; also the
/// pause between two such readings.
pub const FAILOVER_REREAD_MS: u64 = 500;
/// Age at which a transaction without an answer counts as one of which nobody knows, in milliseconds.
pub const FAILOVER_ANSWER_MS_MAX: u64 = 10_000;
/// Pause before a refused transaction is tried again although nothing new was heard, in milliseconds.
pub const FAILOVER_RETRY_MS: u64 = 250;
/// Round trips of renewals from which the patience with the coordinator is measured. Past it the oldest is forgotten.
pub const FAILOVER_RTTS_MAX: usize = 256;
/// Shortest patience with the coordinator, in milliseconds. Past it peers are asked for their promise.
pub const FAILOVER_PATIENCE_MS_MIN: u64 = 50;
/// Puts of the own lease whose fate or echo is remembered. Past it the oldest is forgotten; two are under way at most.
pub const FAILOVER_PUTS_MAX: usize = 16;
/// Longest promise that is given, in milliseconds. A longer one is not given.
pub const FAILOVER_PROMISE_MS_MAX: u64 = 120_000;
/// How long a candidate waits for the tails of the others, in milliseconds. Past it they count as equal to its own.
pub const FAILOVER_TAILS_MS_MAX: u64 = 150;
/// Pause between two questions for a candidate's tail, in milliseconds.
pub const FAILOVER_TAILS_ASK_MS: u64 = 500;
/// By how much the next candidate waits longer than the one before it, in milliseconds.
pub const FAILOVER_RANK_STEP_MS: u64 = 200;
/// Wait before a fence hook that failed is run again, in milliseconds. No promotion without it.
pub const FAILOVER_FENCE_RETRY_MS: u64 = 5_000;
/// How long a replica in sync may be disconnected or incomplete, in milliseconds, if the configured time-out for
/// acknowledgements is longer. Past it, it leaves in_sync.
pub const FAILOVER_GONE_MS: u64 = 300;
/// How soon a replica that left in_sync may come back, in milliseconds.
pub const FAILOVER_REJOIN_MS: u64 = 1_000;
/// Operations that a replica may be behind when clients begin to wait for it. Past it, it stays outside in_sync.
pub const FAILOVER_JOIN_OPS: u64 = 64;
/// How long a planned move may hold a group back, in milliseconds. Past it the group is served again where it was.
pub const FAILOVER_MOVE_MS_MAX: u64 = 5_000;
/// Groups that a node moves away at one time. More wait.
pub const FAILOVER_MOVES_MAX: usize = 4;
/// Wait before a drained node tries again to move a group away, in milliseconds. Tries never end.
pub const FAILOVER_MOVE_RETRY_MS: u64 = 10_000;
/// Age at which what an observer said counts as nothing, in milliseconds.
pub const FAILOVER_OBSERVED_MS_MAX: u64 = 3_000;
/// How long an agent that stops waits for its lease to be given back, in milliseconds. Past it the lease runs out.
pub const FAILOVER_STOP_MS_MAX: u64 = 1_000;
/// Time for an administrator's order to be written, in milliseconds. Past it, it is refused, with the reason.
pub const FAILOVER_ORDER_MS_MAX: u64 = 5_000;
/// Orders under way at one time. Past it a new one is refused.
pub const FAILOVER_ORDERS_MAX: usize = 64;
/// Accounts that are merged into their active at one time. More wait.
pub const MERGES_AT_ONCE: usize = 2;
/// First wait before an account whose merge failed is tried again, in milliseconds; doubles up to
/// [`MERGE_RETRY_MS_MAX`].
pub const MERGE_RETRY_MS_MIN: u64 = 500;
/// Longest wait between two tries to merge an account, in milliseconds. Tries never end; the account is named in
/// `status`.
pub const MERGE_RETRY_MS_MAX: u64 = 30_000;
/// Tries of an account that wait for the node that knows where the histories parted. Past it, it is merged without:
/// nothing then counts as deleted.
pub const MERGE_FORK_TRIES: u32 = 8;
/// Wait before a store that could not be asked for its accounts is asked again, in milliseconds. Tries never end.
pub const MERGE_LIST_RETRY_MS: u64 = 2_000;
/// Plans of one try to merge an account. Past it the try failed, with what is still missing named.
pub const MERGE_ROUNDS_MAX: usize = 4;
/// Items in one request to merge. More go in several: one must be done within [`ASK_MS_MAX`], bodies included.
pub const MERGE_OPS_MAX: usize = 64;
/// Bytes of items in one request to merge. More go in several.
pub const MERGE_BYTES_MAX: usize = 512 << 10;
/// How often a UID that a user took first is replaced by the next one, in one request to merge. Past it the request
/// failed, and is made again later.
pub const MERGE_UID_TRIES: u32 = 16;
/// Findings in the report of one merge. Past it they are counted and not written.
pub const MERGE_FINDINGS_MAX: usize = 1_000_000;
/// Merges whose report and progress are kept. Past it the oldest are removed.
pub const MERGES_KEPT_MAX: usize = 200;
/// Merges that `status` names. The rest is in `understudy merge list`.
pub const MERGES_NAMED_MAX: usize = 16;
/// How long the thread of merges sleeps when nothing happens, in milliseconds.
pub const MERGE_IDLE_MS: u64 = 1_000;

/// Time for one round of a peer's canary, in milliseconds. Past it the round has failed.
pub const CANARY_ROUND_MS_MAX: u64 = 5_000;
/// Age of a round under way from which it counts as failing, in nanoseconds.
pub const CANARY_LATE_NS: u64 = 1_000_000_000;
/// Every so many rounds a canary writes.
pub const CANARY_WRITE_ROUNDS: u64 = 5;
/// Bytes of the body of a canary's message, at most.
pub const CANARY_BODY_BYTES: usize = 1024;
/// Bytes of one line of an IMAP server. Past it the round has failed.
pub const CANARY_LINE_BYTES_MAX: usize = 16 << 10;
/// Untagged answers to one command. Past it the round has failed.
pub const CANARY_LINES_MAX: usize = 256;
/// Bytes that an IMAP server may send in one round. Past it the round has failed.
pub const CANARY_SESSION_BYTES_MAX: usize = 256 << 10;
/// Bytes of the file with the canary's password that are looked at.
pub const CANARY_PASSWORD_BYTES_MAX: usize = 4096;
/// Characters of a reason that observers tell each other. What is longer is cut.
pub const CANARY_WHY_CHARS_MAX: usize = 200;
/// Bytes of what an observer says of all its peers. More is refused.
pub const CANARY_WORDS_BYTES_MAX: usize = 256 << 10;

/// Time for one run of the fence hook, in milliseconds. Past it, it is killed and has failed.
pub const FENCE_HOOK_MS_MAX: u64 = 10_000;
/// Bytes of the fence hook's output that are kept. What is longer is dropped.
pub const FENCE_HOOK_OUTPUT_BYTES_MAX: usize = 16 << 10;
/// Lines of the fence hook's output that go to the log. More are dropped.
pub const FENCE_HOOK_LINES_MAX: usize = 100;

/// Days of the availability ledger. Older ones are forgotten, and their files removed.
pub const LEDGER_DAYS_MAX: usize = 400;
/// Failures of one node or group on one day. Further ones are counted to the last.
pub const LEDGER_FAILURES_MAX: usize = 500;
/// Longest time between two looks, in milliseconds. In a longer one nobody looked: it counts neither as up nor as down.
pub const LEDGER_SIGHT_MS_MAX: u64 = 5_000;
/// What is up for a shorter time between two failures, in milliseconds, has not recovered: it is one failure.
pub const LEDGER_FLAP_MS: u64 = 10_000;
/// Time between two writes of the ledger, in milliseconds. What was seen since the last is lost with the agent.
pub const LEDGER_SAVE_MS: u64 = 30_000;
/// Time between two counts of the accounts of each group, in milliseconds.
pub const LEDGER_USERS_MS: u64 = 60_000;
