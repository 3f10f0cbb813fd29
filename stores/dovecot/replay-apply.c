/* The operations of one request: in order, gathered into transactions.
 *
 * Owns: which operation goes to which part, and when a transaction ends: at another mailbox, at another sort of
 * operation, at its bound. What can hurt: one bad operation in a transaction of a thousand: the transaction is
 * then undone and its operations are tried one by one, so that only the bad one fails. Refuses: order across
 * requests, tombstones, "the newest flags win": those are the agent's. */

#include "replay.h"

void replay_run_end(struct replay_apply *ap)
{
    switch (ap->run.kind) {
    case REPLAY_RUN_NONE:
        break;
    case REPLAY_RUN_SAVE:
        replay_save_commit(ap);
        break;
    case REPLAY_RUN_CHANGE:
        replay_change_commit(ap);
        break;
    }
    array_clear(&ap->run.queued);
    /* What was committed is to be seen by the next copy from there. */
    if (ap->run.kind != REPLAY_RUN_NONE)
        replay_box_keep(ap->user, &ap->source);
    ap->run.kind = REPLAY_RUN_NONE;
    ap->run.last_uid = 0;
}

bool replay_stopped(const struct replay_apply *ap, struct replay_result *result)
{
    if (ap->stopped)
        replay_set(result, REPLAY_NOT_TRIED, "");
    return ap->stopped;
}

void replay_apply_settle(struct replay_apply *ap)
{
    replay_run_end(ap);
    replay_box_close(&ap->current);
    replay_box_close(&ap->source);
    replay_kept_close(ap->user);
}

/* Of a failure nobody knows what it left in the open mailboxes: the next request opens them again. */
static void end(struct replay_apply *ap)
{
    replay_run_end(ap);
    if (ap->stopped) {
        replay_apply_settle(ap);
        replay_boxes_forget(ap->user);
    } else {
        replay_box_keep(ap->user, &ap->source);
        replay_box_keep(ap->user, &ap->current);
    }
}

enum mail_flags replay_flags(uint32_t flags)
{
    enum mail_flags out = 0;

    if ((flags & OP_FLAG_ANSWERED) != 0)
        out |= MAIL_ANSWERED;
    if ((flags & OP_FLAG_FLAGGED) != 0)
        out |= MAIL_FLAGGED;
    if ((flags & OP_FLAG_DELETED) != 0)
        out |= MAIL_DELETED;
    if ((flags & OP_FLAG_SEEN) != 0)
        out |= MAIL_SEEN;
    if ((flags & OP_FLAG_DRAFT) != 0)
        out |= MAIL_DRAFT;
    return out;
}

static void apply_one(struct replay_apply *ap, unsigned int index)
{
    struct replay_item *item = &ap->items[index];

    switch (item->op.kind) {
    case OP_MAILBOX_CREATED:
    case OP_MAILBOX_DELETED:
    case OP_MAILBOX_RENAMED:
    case OP_MAILBOX_UPDATED:
        replay_apply_settle(ap);
        if (!replay_stopped(ap, &item->result))
            replay_apply_mailbox(ap, &item->op, &item->result);
        break;
    case OP_SUBSCRIBED:
    case OP_UNSUBSCRIBED:
        replay_run_end(ap);
        if (!replay_stopped(ap, &item->result))
            replay_apply_subscription(ap, &item->op, &item->result);
        break;
    case OP_ATTRIBUTE_SET:
        replay_run_end(ap);
        if (!replay_stopped(ap, &item->result))
            replay_apply_attribute(ap, &item->op, &item->result);
        break;
    case OP_MESSAGE_SAVED:
    case OP_MESSAGE_COPIED:
        replay_apply_message(ap, index);
        break;
    case OP_MESSAGE_EXPUNGED:
    case OP_FLAGS_SET:
        replay_apply_change(ap, index);
        break;
    default:
        /* Marks for the agent: nothing of them is in a store. */
        replay_set(&item->result, REPLAY_ALREADY, "");
        break;
    }
}

/* Of an account whose storage was repaired in between nobody knows what it holds: the agent is to compare it. What
 * was queued is tried all the same; the result of this operation stands for all. */
static void check_storage(struct replay_apply *ap, unsigned int index)
{
    struct replay_result *result = &ap->items[index].result;

    if (!replay_storage_was_rebuilt(ap->user))
        return;
    i_warning("the storage of %s was made anew from its files", ap->user->name);
    replay_apply_settle(ap);
    ap->rebuilt = TRUE;
    if (result->status <= REPLAY_ALREADY)
        replay_set(result, REPLAY_CONFLICT, "the storage was made anew from its files");
}

void replay_apply_all(struct replay_apply *ap)
{
    unsigned int i;

    i_array_init(&ap->run.queued, 64);
    for (i = 0; i < ap->count; i++) {
        struct replay_result *result = &ap->items[i].result;

        /* Whoever asked has gone, and a successor may be about to replay the same and what follows it. */
        if (replay_conn_is_gone(ap->conn))
            ap->stopped = TRUE;
        if (replay_stopped(ap, result))
            continue;
        if (ap->items[i].valid) T_BEGIN {
            apply_one(ap, i);
            check_storage(ap, i);
            /* Texts of the data stack do not outlive this frame. */
            result->text = p_strdup(ap->pool, result->text);
        } T_END;
        ap->stopped = ap->stopped || result->status > REPLAY_ALREADY;
    }
    T_BEGIN {
        end(ap);
        if (ap->count > 0)
            check_storage(ap, ap->count - 1);
    } T_END;
    array_free(&ap->run.queued);
}
