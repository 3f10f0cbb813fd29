/* The plugin's only way to the ring. See ring-client.h.
 *
 * What can hurt: the agent's answers decide whether a user may change mail, so each has one place here:
 * `us_account_admit` and `us_intent_begin` before a commit, `us_wait` after it. After the commit nothing is
 * refused any more, only told. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "lib.h"

#include "ring-client.h"
#include "understudy_ring.h"

/* Longest wait for the answer to "what holds for this account", in milliseconds; then the agent's default holds. */
#define US_POLICY_WAIT_MS 500
/* Shortest time between two attempts to open the ring, and between two questions to an agent that does not
 * answer, in milliseconds. */
#define US_RETRY_MS 1000
/* An answer is asked for again after this time, in milliseconds, whatever the ring says about its age. */
#define US_POLICY_AGE_MS 60000
/* Shortest time between two complaints in the log, in milliseconds. */
#define US_COMPLAIN_MS 60000

struct us_account {
    struct us_account *next;
    unsigned int refcount;
    struct us_ring_policy policy;
    bool policy_known; /* there is one, perhaps only the agent's default */
    bool answered;     /* the agent said so for this account */
    bool last_answered; /* the last question was answered */
    bool missed; /* changed while there was no ring */
    int64_t asked_ms;
    uint32_t asked_generation;
    size_t name_bytes;
    char name[]; /* with a zero at the end */
};

static struct us_ring *ring;
static char *ring_path;
static bool ring_refuse_when_absent;
static int64_t ring_tried_ms = -US_RETRY_MS;
static struct us_account *accounts;

static int64_t mono_ms(void)
{
    struct timespec now;

    if (clock_gettime(CLOCK_MONOTONIC, &now) < 0)
        return 0;
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static uint64_t wall_ns(void)
{
    struct timespec now;

    if (clock_gettime(CLOCK_REALTIME, &now) < 0)
        return 0;
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static void complain(const char *account, const char *what)
{
    static int64_t last_ms = -US_COMPLAIN_MS;
    static unsigned int held_back;
    int64_t now_ms = mono_ms();

    if (now_ms - last_ms < US_COMPLAIN_MS) {
        held_back++;
        return;
    }
    last_ms = now_ms;
    i_error("understudy: %s%s%s (%u similar held back)", account == NULL ? "" : account, account == NULL ? "" : ": ",
            what, held_back);
    held_back = 0;
}

static const unsigned char *name_of(const struct us_account *account)
{
    return (const unsigned char *)account->name;
}

/* Opens the ring if it is not open and it is time to try, and marks what was missed meanwhile. */
static void ring_connect(bool now)
{
    struct us_account *account;
    int64_t now_ms = mono_ms();
    int ret;

    if (ring == NULL) {
        if (ring_path == NULL || (!now && now_ms - ring_tried_ms < US_RETRY_MS))
            return;
        ring_tried_ms = now_ms;
        ret = us_ring_open(ring_path, &ring);
        if (ret != US_RING_OK) {
            ring = NULL;
            complain(ring_path, us_ring_strerror(ret));
            return;
        }
    }
    for (account = accounts; account != NULL; account = account->next) {
        if (account->missed && us_ring_mark_gap(ring, name_of(account), account->name_bytes) == US_RING_OK)
            account->missed = false;
    }
}

void us_ring_configure(const char *path, bool refuse_when_absent)
{
    if (ring_path == NULL || strcmp(ring_path, path) != 0) {
        us_ring_shutdown();
        ring_path = strdup(path);
        ring_tried_ms = mono_ms() - US_RETRY_MS;
    }
    ring_refuse_when_absent = refuse_when_absent;
}

void us_ring_shutdown(void)
{
    us_ring_close(ring);
    ring = NULL;
    free(ring_path);
    ring_path = NULL;
}

bool us_ring_connected(void)
{
    return ring != NULL;
}

struct us_account *us_account_ref(const char *name)
{
    size_t bytes = strlen(name);
    struct us_account *account;

    if (bytes == 0 || bytes > OP_ACCOUNT_BYTES_MAX) {
        complain(NULL, "the name of an account is empty or too long; it is not replicated");
        return NULL;
    }
    for (account = accounts; account != NULL; account = account->next) {
        if (account->name_bytes == bytes && memcmp(account->name, name, bytes) == 0) {
            account->refcount++;
            return account;
        }
    }
    account = calloc(1, sizeof(*account) + bytes + 1);
    if (account == NULL)
        return NULL;
    memcpy(account->name, name, bytes + 1);
    account->name_bytes = bytes;
    account->refcount = 1;
    account->asked_ms = -US_RETRY_MS;
    account->next = accounts;
    accounts = account;
    return account;
}

void us_account_unref(struct us_account **_account)
{
    struct us_account *account = *_account, **at;

    *_account = NULL;
    if (account == NULL || --account->refcount > 0)
        return;
    /* Last chance to say that something is missing: the agent may have come since. */
    if (account->missed)
        ring_connect(true);
    for (at = &accounts; *at != NULL; at = &(*at)->next) {
        if (*at == account) {
            *at = account->next;
            break;
        }
    }
    free(account);
}

const char *us_account_name(const struct us_account *account)
{
    return account->name;
}

/* Asks for the policy if it is not known or the agent's rules have changed. A dead agent is asked again once a
 * second, because its successor may have made another ring, which only this question notices. What the agent once
 * said of the account holds until it says something else: its default is for accounts that it was never asked
 * about, or an account that is active elsewhere could be changed here while the agent is away. */
static void policy_refresh(struct us_account *account)
{
    int64_t now_ms = mono_ms(), age_ms = now_ms - account->asked_ms;
    struct us_ring_policy policy;
    bool current = account->answered && account->policy.generation == us_ring_policy_generation(ring) &&
                   age_ms < US_POLICY_AGE_MS && us_ring_agent_alive(ring) == 1;
    int ret;

    /* A new agent raises the generation, so it is asked at once. */
    if (current || (account->policy_known && !account->last_answered && age_ms < US_RETRY_MS &&
                    account->asked_generation == us_ring_policy_generation(ring)))
        return;
    memset(&policy, 0, sizeof(policy));
    ret = us_ring_account_open(ring, name_of(account), account->name_bytes, wall_ns(), US_POLICY_WAIT_MS, &policy);
    account->asked_ms = mono_ms();
    account->asked_generation = us_ring_policy_generation(ring);
    if (ret == US_RING_OK) {
        account->last_answered = policy.generation == account->asked_generation;
        if (account->last_answered || !account->answered) {
            account->policy = policy;
            account->policy_known = true;
            account->answered = account->last_answered;
        }
        return;
    }
    complain(account->name, us_ring_strerror(ret));
    if (ret == US_RING_E_OPEN || ret == US_RING_E_ABSENT || ret == US_RING_E_NO_SLOT) {
        us_ring_close(ring);
        ring = NULL;
        ring_tried_ms = mono_ms();
    }
}

enum us_admit us_account_admit(struct us_account *account, const char **why_r)
{
    ring_connect(false);
    if (ring != NULL)
        policy_refresh(account);
    if (ring == NULL || !account->policy_known) {
        *why_r = "mail is not being replicated at this time, try again later";
        return ring_refuse_when_absent ? US_ADMIT_REFUSE : US_ADMIT_CAPTURE;
    }
    if (account->policy.replicated == 0)
        return US_ADMIT_SKIP;
    if (account->policy.role == US_RING_ROLE_REPLICA) {
        *why_r = "this account is active on another server, try again later";
        return US_ADMIT_REFUSE;
    }
    return US_ADMIT_CAPTURE;
}

bool us_account_needs_body(const struct us_account *account)
{
    return account->policy_known && account->policy.level == US_RING_LEVEL_PEER &&
           account->policy.on_timeout == US_RING_TIMEOUT_REFUSE;
}

bool us_is_fenced(const char **why_r)
{
    if (ring == NULL || us_ring_is_fenced(ring) == 0)
        return false;
    *why_r = "this server may not change mail at this time, try again later";
    return true;
}

bool us_intent_begin(struct us_account *account, const unsigned char mailbox_guid[OP_GUID_BYTES],
                     struct us_intent *intent, const char **why_r)
{
    const struct us_ring_policy *policy = &account->policy;
    int ret;

    memset(intent, 0, sizeof(*intent));
    intent->begun = true;
    if (us_is_fenced(why_r)) {
        intent->begun = false;
        return false;
    }
    if (ring == NULL || !account->policy_known)
        return true;
    if (policy->on_full == US_RING_FULL_REFUSE && us_ring_agent_alive(ring) == 0) {
        *why_r = "mail is not being replicated at this time, try again later";
        intent->begun = false;
        return false;
    }
    if (policy->intents == 0)
        return true;
    ret = us_ring_intent_begin(ring, name_of(account), account->name_bytes, mailbox_guid, OP_GUID_BYTES, wall_ns(),
                               policy->on_full, policy->wait_timeout_ms, &intent->id);
    switch (ret) {
    case US_RING_OK:
        return true;
    case US_RING_E_FULL:
    case US_RING_E_TIMED_OUT:
        *why_r = "mail is not being replicated at this time, try again later";
        intent->begun = false;
        return false;
    case US_RING_E_FENCED:
        *why_r = "this server may not change mail at this time, try again later";
        intent->begun = false;
        return false;
    default:
        intent->id = 0;
        us_gap(account, us_ring_strerror(ret));
        return true;
    }
}

void us_intent_end(struct us_account *account, struct us_intent *intent)
{
    if (ring != NULL && intent->id != 0)
        (void)us_ring_intent_end(ring, name_of(account), account->name_bytes, intent->id, wall_ns());
    intent->id = 0;
}

/* Gives up an answer that a later operation of the same transaction stands for. */
static void wait_forget(struct us_wait *wait)
{
    struct us_ring_completion completion = { .slot = wait->slot, .ticket = wait->ticket };

    if (ring != NULL && wait->pending && wait->error == 0)
        us_ring_forget(ring, completion);
    memset(wait, 0, sizeof(*wait));
}

static void publish(struct us_account *account, struct op *op, enum op_kind kind, struct us_intent *closes,
                    struct us_wait *wait)
{
    const struct us_ring_policy *policy = &account->policy;
    struct us_ring_completion completion;
    struct us_ring_record record;
    bool answer;
    int ret;

    if (ring == NULL || !account->policy_known) {
        account->missed = true;
        return;
    }
    memset(&record, 0, sizeof(record));
    record.account = name_of(account);
    record.account_bytes = account->name_bytes;
    record.payload = op_bytes(op, &record.payload_bytes);
    if (record.payload == NULL) {
        us_gap(account, "an operation is too long");
        return;
    }
    if (kind < 64 && (policy->op_kinds & (UINT64_C(1) << kind)) == 0)
        return;
    record.intent = closes == NULL ? 0 : closes->id;
    record.captured_wall_ns = wall_ns();
    /* The change is committed and the caller may hold a lock: never wait for space here. */
    record.on_full = US_RING_FULL_GO_ON;
    answer = wait != NULL && policy->level != US_RING_LEVEL_NONE;
    if (wait != NULL)
        wait_forget(wait);
    ret = us_ring_publish(ring, &record, answer ? &completion : NULL);
    if (ret == US_RING_E_NO_COMPLETION)
        ret = us_ring_publish(ring, &record, NULL) == US_RING_OK ? US_RING_E_NO_COMPLETION : US_RING_E_DROPPED;
    if (ret == US_RING_OK || ret == US_RING_E_NO_COMPLETION) {
        if (closes != NULL)
            closes->id = 0;
    } else if (ret == US_RING_E_DROPPED || ret == US_RING_E_TOO_LARGE || ret == US_RING_E_DAMAGED ||
               ret == US_RING_E_FENCED) {
        complain(account->name, us_ring_strerror(ret)); /* the ring has marked the account */
    } else {
        us_gap(account, us_ring_strerror(ret));
    }
    if (!answer)
        return;
    wait->pending = true;
    wait->error = ret;
    if (ret == US_RING_OK) {
        wait->slot = completion.slot;
        wait->ticket = completion.ticket;
    }
}

void us_publish(struct us_account *account, struct op *op, enum op_kind kind, struct us_intent *closes,
                struct us_wait *wait)
{
    publish(account, op, kind, closes, wait);
    /* Not published: it is marked as a gap or not wanted, and either way there is nothing left to come. */
    if (closes != NULL)
        us_intent_end(account, closes);
}

void us_wait_later(struct us_wait *later, struct us_wait *wait)
{
    if (!wait->pending)
        return;
    wait_forget(later);
    *later = *wait;
    memset(wait, 0, sizeof(*wait));
}

bool us_wait(struct us_account *account, struct us_wait *wait, const char **why_r)
{
    const struct us_ring_policy *policy = &account->policy;
    struct us_ring_completion completion = { .slot = wait->slot, .ticket = wait->ticket };
    bool refuse = policy->on_timeout == US_RING_TIMEOUT_REFUSE;
    int ret = wait->error;

    if (!wait->pending)
        return true;
    memset(wait, 0, sizeof(*wait));
    if (ret == US_RING_OK && ring != NULL)
        ret = us_ring_wait(ring, completion, policy->wait_timeout_ms, policy->on_full);
    if (ret == US_RING_REPLICATED || (ret == US_RING_DURABLE && policy->level == US_RING_LEVEL_LOCAL))
        return true;
    if (ret == US_RING_E_FENCED) {
        *why_r = "changed here, but this server may not change mail any more";
        return false;
    }
    if (ret == US_RING_E_REFUSED)
        refuse = true;
    *why_r = "changed here, but not yet safe on another server";
    return !refuse;
}

void us_gap(struct us_account *account, const char *why)
{
    complain(account->name, why);
    if (ring == NULL || us_ring_mark_gap(ring, name_of(account), account->name_bytes) != US_RING_OK)
        account->missed = true;
}
