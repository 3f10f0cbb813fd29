/* understudy_ring.h: the shared-memory ring between a mail store and its Understudy agent, for C.
 *
 * Link with libunderstudy_ring.a. No function ends the process or lets an exception through; every one takes
 * null pointers. Generated from ring/src/abi by `UPDATE=1 cargo test -p understudy-ring header`.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef UNDERSTUDY_RING_H
#define UNDERSTUDY_RING_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Bytes of the longest account name. */
#define US_RING_ACCOUNT_BYTES_MAX 1024u

/* Bytes of the largest record: a header of 64, account and payload each padded to 8. */
#define US_RING_RECORD_BYTES_MAX 262144u

/* A ring that this program has open. */
struct us_ring;

/* An incremental BLAKE3 hasher. */
struct us_blob_hasher;

/* What a function gives: 0 or one of these. */
enum us_ring_error {
	/* Done. */
	US_RING_OK = 0,
	/* A pointer is null, a length is too long, or a number is out of its range. */
	US_RING_E_INVALID = -1,
	/* There is no ring file: the agent never ran here. */
	US_RING_E_ABSENT = -2,
	/* The ring file cannot be opened: permissions, version, or damage. */
	US_RING_E_OPEN = -3,
	/* Too many processes have the ring open. */
	US_RING_E_NO_SLOT = -4,
	/* The ring is full; the record was dropped and its account marked for comparison. Go on. */
	US_RING_E_DROPPED = -5,
	/* The ring is full and the policy says to refuse. */
	US_RING_E_FULL = -6,
	/* Nothing came, or the ring stayed full, for the given time. */
	US_RING_E_TIMED_OUT = -7,
	/* This node is fenced, or past the time until which it may change mail: refuse the change. */
	US_RING_E_FENCED = -8,
	/* The agent refused the record. */
	US_RING_E_REFUSED = -9,
	/* Account name or record are too long; the account was marked for comparison. */
	US_RING_E_TOO_LARGE = -10,
	/* All completion slots are in use; the account was marked for comparison. */
	US_RING_E_NO_COMPLETION = -11,
	/* The ring is damaged; the account was marked for comparison, the agent repairs the ring. */
	US_RING_E_DAMAGED = -12,
	/* A bug was caught inside the library; the process is unharmed. */
	US_RING_E_PANIC = -13,
	/* No peer acknowledged in the time that the agent waits. */
	US_RING_E_PEER_TIMED_OUT = -14,
	/* No agent is attached, or it shows no sign of life. What was published stays in the ring. */
	US_RING_E_AGENT_ABSENT = -15,
};

/* What an answer says. */
enum us_ring_status {
	/* Durable on this node. */
	US_RING_DURABLE = 1,
	/* Durable on as many peers as the rule asks for. */
	US_RING_REPLICATED = 2,
};

/* What a change must reach before the client gets its OK. */
enum us_ring_level {
	/* Nothing. */
	US_RING_LEVEL_NONE = 0,
	/* Durable on this node. */
	US_RING_LEVEL_LOCAL = 1,
	/* Durable on the policy's number of peers. */
	US_RING_LEVEL_PEER = 2,
};

/* What to do when no answer comes in time. */
enum us_ring_on_timeout {
	/* Go on. */
	US_RING_TIMEOUT_GO_ON = 0,
	/* Refuse the change. */
	US_RING_TIMEOUT_REFUSE = 1,
};

/* What to do when the ring is full or the agent absent. */
enum us_ring_on_full {
	/* Go on; the account is marked for comparison. */
	US_RING_FULL_GO_ON = 0,
	/* Wait at most the policy's time, then refuse. */
	US_RING_FULL_WAIT = 1,
	/* Refuse at once. */
	US_RING_FULL_REFUSE = 2,
};

/* Which part this node has for an account. */
enum us_ring_role {
	/* Users change the account here. */
	US_RING_ROLE_ACTIVE = 0,
	/* Another node is active: refuse changes before they are committed. */
	US_RING_ROLE_REPLICA = 1,
};

/* What holds for an account. */
struct us_ring_policy {
	/* 1 when the account is captured. */
	uint8_t replicated;
	/* One of `enum us_ring_level`. */
	uint8_t level;
	/* Peers that must hold a change, for `US_RING_LEVEL_PEER`. */
	uint8_t peers;
	/* One of `enum us_ring_on_timeout`. */
	uint8_t on_timeout;
	/* One of `enum us_ring_on_full`. */
	uint8_t on_full;
	/* 1 when an intent goes before each commit. */
	uint8_t intents;
	/* One of `enum us_ring_role`. */
	uint8_t role;
	/* Zero. */
	uint8_t reserved;
	/* Longest wait for space or for an answer, in milliseconds. */
	uint32_t wait_timeout_ms;
	/* When `us_ring_policy_generation` gives another number, ask again. */
	uint32_t generation;
	/* Bit n is set when operations of kind n are captured. */
	uint64_t op_kinds;
};

/* Names one answer that is being waited for. */
struct us_ring_completion {
	/* Index of the slot. */
	uint32_t slot;
	/* Which use of it. */
	uint32_t ticket;
};

/* An operation to publish. */
struct us_ring_record {
	/* The account's name. */
	const uint8_t *account;
	/* Its bytes, at most `US_RING_ACCOUNT_BYTES_MAX`. */
	size_t account_bytes;
	/* The encoded operation. */
	const uint8_t *payload;
	/* Its bytes; with account and header at most `US_RING_RECORD_BYTES_MAX`. */
	size_t payload_bytes;
	/* The intent that this operation closes; 0 for none. */
	uint64_t intent;
	/* Wall time of the change, in nanoseconds since the epoch. */
	uint64_t captured_wall_ns;
	/* Longest wait for space, in milliseconds, for `US_RING_FULL_WAIT`. */
	uint32_t full_wait_ms;
	/* Bits that belong to the operation; only the upper eight are kept. */
	uint16_t flags;
	/* One of `enum us_ring_on_full`. */
	uint8_t on_full;
	/* Zero. */
	uint8_t reserved;
};

/* Opens the ring at `path` and stores its handle at `ring`. Opening a ring again in one process is cheap.
 * Gives `US_RING_OK` or an error; treat any as an absent agent. The handle is for one thread at a time. */
int us_ring_open(const char *path, struct us_ring **ring);

/* Closes a handle. The mapping goes with the last one. Null is nothing. */
void us_ring_close(struct us_ring *ring);

/* The generation of the agent's rules. When it differs from a policy's, ask for the policy again. 0 for null. */
uint32_t us_ring_policy_generation(const struct us_ring *ring);

/* 1 when an agent is attached and showed a sign of life in the last five seconds, else 0. */
int us_ring_agent_alive(const struct us_ring *ring);

/* 1 when this node may not change mail now: fenced, or past the time until which it may. Else 0, also for null.
 * To refuse a change before any work is done for it; `us_ring_intent_begin` looks again. */
int us_ring_is_fenced(const struct us_ring *ring);

/* Asks the agent what holds for an account, waits at most `timeout_ms`, and stores it at `policy`; the default
 * policy when no answer comes, with a generation that is not the ring's. Call it at the start of a session: it also
 * notices a ring that was replaced. */
int us_ring_account_open(struct us_ring *ring, const uint8_t *account, size_t account_bytes, uint64_t wall_ns, uint32_t timeout_ms, struct us_ring_policy *policy);

/* Says that a change of an account is about to be committed; `what` names the mailbox. Stores the intent's id
 * at `intent`. An error comes before anything was changed: refuse the change or go on, as the policy says. */
int us_ring_intent_begin(struct us_ring *ring, const uint8_t *account, size_t account_bytes, const uint8_t *what, size_t what_bytes, uint64_t wall_ns, uint8_t on_full, uint32_t full_wait_ms, uint64_t *intent);

/* Says that the change of an intent did not happen. */
int us_ring_intent_end(struct us_ring *ring, const uint8_t *account, size_t account_bytes, uint64_t intent, uint64_t wall_ns);

/* Publishes an operation. With `completion`, an answer is wanted, and its name is stored there; wait for it with
 * `us_ring_wait`, after letting go of locks. `US_RING_OK` means that the record will be delivered. */
int us_ring_publish(struct us_ring *ring, const struct us_ring_record *record, struct us_ring_completion *completion);

/* Waits for an answer, at most `timeout_ms`. Gives a value of `enum us_ring_status`, or an error. Without a living
 * agent, `US_RING_FULL_WAIT` in `on_absent` waits all the same; else `US_RING_E_AGENT_ABSENT` comes at once.
 * Past the time until which this node may change mail, `US_RING_E_FENCED` comes in place of all but a refusal.
 * The slot is free afterwards, whatever the outcome: wait once for each answer. */
int us_ring_wait(struct us_ring *ring, struct us_ring_completion completion, uint32_t timeout_ms, uint8_t on_absent);

/* Gives up an answer that was asked for and is not waited for. */
void us_ring_forget(struct us_ring *ring, struct us_ring_completion completion);

/* Marks an account for comparison: something of it was not captured. */
int us_ring_mark_gap(struct us_ring *ring, const uint8_t *account, size_t account_bytes);

/* The bucket of the gap bitmap that an account falls into. */
uint16_t us_ring_gap_bucket(const uint8_t *account, size_t account_bytes);

/* What a value of `enum us_ring_error` means, in English; never null, never to be freed. */
const char *us_ring_strerror(int error);

/* A new hasher; null when there is no memory. */
struct us_blob_hasher *us_blob_hasher_new(void);

/* Adds bytes. Null is nothing. */
void us_blob_hasher_update(struct us_blob_hasher *hasher, const uint8_t *bytes, size_t length);

/* Writes the 32 bytes of the hash of what was added so far. More may be added afterwards. Null is nothing. */
void us_blob_hasher_finish(const struct us_blob_hasher *hasher, uint8_t *hash);

/* Frees a hasher. Null is nothing. */
void us_blob_hasher_free(struct us_blob_hasher *hasher);

/* CRC-32C (Castagnoli) of bytes, going on from `crc`; start with 0. */
uint32_t us_crc32c(uint32_t crc, const uint8_t *bytes, size_t length);

#ifdef __cplusplus
}
#endif

#endif
