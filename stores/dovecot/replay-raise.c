/* The counters of an account's mailboxes: told as they are, then raised.
 *
 * Owns: what a node does before it serves an account that another node served until now. That one may have given UIDs
 * and modification sequences to its clients that never came here; given once more, they would mean other messages under
 * the same UIDVALIDITY, and clients would show wrong ones from their caches. So the counters jump over them.
 * What can hurt: a mailbox that is told as raised and is not; each is told with what was read before, and a failure ends
 * the request, which can be made again: a gap is only made larger. Refuses: counters that are near their end. */

#include "replay.h"

#include "op-encode.h"

/* IMAP's modification sequences have 63 bits. */
#define MODSEQ_MAX ((UINT64_C(1) << 63) - 1)

static bool put_row(buffer_t *out, struct mailbox *box, const guid_128_t guid, const struct mailbox_status *status)
{
    const unsigned char *bytes;
    struct op op;
    size_t size;

    op_begin(&op, OP_MAILBOX_UPDATED);
    op_put_guid(&op, OP_TAG_MAILBOX_GUID, guid);
    op_put_text(&op, OP_TAG_MAILBOX_NAME, mailbox_get_vname(box), OP_NAME_BYTES_MAX);
    op_put_u32(&op, OP_TAG_UID_VALIDITY, status->uidvalidity);
    op_put_u32(&op, OP_TAG_NEXT_UID, status->uidnext);
    op_put_u64(&op, OP_TAG_HIGHEST_MODSEQ, status->highest_modseq);
    bytes = op_bytes(&op, &size);
    if (bytes != NULL) {
        replay_put_u32(out, (uint32_t)size);
        buffer_append(out, bytes, size);
    }
    op_free(&op);
    return bytes != NULL;
}

static bool raise_box(const struct replay_raise_request *request, struct mailbox *box,
                      const struct mailbox_status *status, struct replay_result *result_r)
{
    struct mailbox_update update;

    if (request->uid_gap == 0 && request->modseq_gap == 0)
        return TRUE;
    if (request->uid_gap >= UINT32_MAX - status->uidnext || request->modseq_gap > MODSEQ_MAX - status->highest_modseq) {
        replay_set(result_r, REPLAY_REFUSED,
                   t_strdup_printf("counters of mailbox `%s` are too near their end", mailbox_get_vname(box)));
        return FALSE;
    }
    i_zero(&update);
    if (request->uid_gap > 0)
        update.min_next_uid = status->uidnext + request->uid_gap;
    if (request->modseq_gap > 0)
        update.min_highest_modseq = status->highest_modseq + request->modseq_gap;
    if (mailbox_update(box, &update) < 0 || mailbox_sync(box, 0) < 0) {
        replay_error(mailbox_get_storage(box), "counters cannot be raised", result_r);
        return FALSE;
    }
    return TRUE;
}

/* FALSE: the request has failed. */
static bool look_and_raise(const struct replay_raise_request *request, struct mailbox *box, buffer_t *out,
                           struct replay_result *result_r)
{
    struct mailbox_metadata metadata;
    struct mailbox_status status;

    if (mailbox_open(box) < 0 || mailbox_get_metadata(box, MAILBOX_METADATA_GUID, &metadata) < 0 ||
        mailbox_sync(box, 0) < 0) {
        replay_error(mailbox_get_storage(box), "mailbox cannot be opened", result_r);
        /* The list goes on naming a mailbox that was deleted while others were below it. */
        return result_r->status == REPLAY_NO_MAILBOX;
    }
    mailbox_get_open_status(box, STATUS_UIDVALIDITY | STATUS_UIDNEXT | STATUS_HIGHESTMODSEQ, &status);
    if (!put_row(out, box, metadata.guid, &status)) {
        replay_set(result_r, REPLAY_REFUSED, "the name of a mailbox passes a limit of the format");
        return FALSE;
    }
    return raise_box(request, box, &status, result_r);
}

static bool flush(const struct replay_raise_request *request, buffer_t *out, struct replay_result *result_r)
{
    bool ok = out->used == 0 || request->send(request->context, out);

    if (!ok)
        replay_set(result_r, REPLAY_TEMPORARY, "the agent has gone");
    buffer_set_used_size(out, 0);
    return ok;
}

void replay_raise(const struct replay_raise_request *request, struct replay_result *result_r)
{
    pool_t pool = pool_alloconly_create("replay raise", 4096);
    buffer_t *out = buffer_create_dynamic(default_pool, 4096);
    ARRAY_TYPE(replay_listed) boxes;
    const struct replay_listed *listed;
    unsigned int told = 0;
    bool ok;

    p_array_init(&boxes, pool, 32);
    ok = replay_list_mailboxes(request->user, pool, &boxes, result_r);
    array_foreach(&boxes, listed) {
        struct mailbox *box;

        if (!ok)
            break;
        if (listed->directory)
            continue;
        T_BEGIN {
            box = mailbox_alloc(listed->ns->list, listed->name, MAILBOX_FLAG_IGNORE_ACLS);
            ok = look_and_raise(request, box, out, result_r);
            mailbox_free(&box);
            result_r->text = p_strdup(pool, result_r->text);
        } T_END;
        if (++told % REPLAY_RAISE_REPLY_BOXES == 0)
            ok = ok && flush(request, out, result_r);
    }
    if (ok && replay_storage_was_rebuilt(request->user)) {
        replay_set(result_r, REPLAY_TEMPORARY, "the storage was made anew from its files while it was read");
        ok = FALSE;
    }
    if (ok && flush(request, out, result_r))
        replay_set(result_r, REPLAY_APPLIED, "");
    result_r->text = t_strdup(result_r->text);
    buffer_free(&out);
    pool_unref(&pool);
}
