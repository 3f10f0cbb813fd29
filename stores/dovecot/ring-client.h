/* The plugin's only way to the ring: opens it, asks for policies, publishes, waits.
 *
 * Owns: the one ring handle of the process, and one `struct us_account` per account in use. Only ring-client.c
 * knows the ring's C interface.
 * What can hurt: an agent that is absent, hung or replaced while a user works; every call returns within the
 * time that the account's policy says, and none can fail in a way that stops the session.
 * Refuses: knowing Dovecot's storage; opening the ring more than once a second when it cannot be opened. */
#ifndef UNDERSTUDY_RING_CLIENT_H
#define UNDERSTUDY_RING_CLIENT_H

#include <stdbool.h>
#include <stdint.h>

#include "op-encode.h"

struct us_account;

enum us_admit {
    US_ADMIT_SKIP,    /* not replicated */
    US_ADMIT_CAPTURE, /* publish */
    US_ADMIT_REFUSE,  /* the change must not happen; `why` is for the client */
};

/* An open intent; all zero = none. */
struct us_intent {
    uint64_t id; /* 0: none is in the ring, but the change is captured all the same */
    bool begun;
};

/* An acknowledgement that is still to be waited for; all zero = none. */
struct us_wait {
    uint32_t slot, ticket;
    int error; /* the ring's, when the operation did not get into it */
    bool pending;
};

/* Sets path and behaviour; called for every mail user, the newest counts. */
void us_ring_configure(const char *path, bool refuse_when_absent);
/* Closes the ring at the end of the process. */
void us_ring_shutdown(void);

/* The account of that name, shared within the process. NULL if the name is empty or past its limit. */
struct us_account *us_account_ref(const char *name);
void us_account_unref(struct us_account **account);
const char *us_account_name(const struct us_account *account);

/* Whether changes of the account are captured now; asks the agent when the answer is not known or outdated.
 * Without a ring, and with `understudy_on_absent = go-on`, the answer is to capture: what cannot be published is
 * remembered, and the account is marked for comparison as soon as there is a ring. */
enum us_admit us_account_admit(struct us_account *account, const char **why_r);
/* Whether there is a ring to publish into. Bodies are not written to the spool without. */
bool us_ring_connected(void);
/* Whether the level of the account lets a client's OK depend on the body in the spool. */
bool us_account_needs_body(const struct us_account *account);

/* Whether this node may not change mail now, by its agent's word or because its time is over; `why` is for the client.
 * `us_intent_begin` asks, too: here it is asked where no intent follows, or long before one. */
bool us_is_fenced(const char **why_r);

/* Says that a change of this mailbox (16 bytes, zeros for the account as a whole) is about to be committed.
 * False: the policy refuses the change; `why` is for the client. */
bool us_intent_begin(struct us_account *account, const unsigned char mailbox_guid[OP_GUID_BYTES],
                     struct us_intent *intent, const char **why_r);
/* Says that nothing came of it. */
void us_intent_end(struct us_account *account, struct us_intent *intent);

/* Publishes one operation; an invalid one marks a gap. `closes`: the intent that this operation is the last of,
 * or NULL. `wait`: gets what to wait for if the policy wants an acknowledgement, or NULL. */
void us_publish(struct us_account *account, struct op *op, enum op_kind kind, struct us_intent *closes,
                struct us_wait *wait);
/* Waits. True: go on. False: the policy says that the client is told; `why` is for it. Takes no lock. */
bool us_wait(struct us_account *account, struct us_wait *wait, const char **why_r);

/* Puts a wait off: `later` then stands for `wait` and for what it stood for before. */
void us_wait_later(struct us_wait *later, struct us_wait *wait);

/* Something of the account was not captured: the agent compares it. `why` goes to the log, at most once a minute. */
void us_gap(struct us_account *account, const char *why);

#endif
