/* New messages: delivered, appended, copied, moved.
 *
 * Owns: what is known of a message while it is saved, and its publication in UID order.
 * What can hurt: the UID is known only inside the commit, and the order of the ring is the order of the UIDs only
 * under the save lock: `transaction_save_commit_post`, before the storage's own. No second handle of the mailbox
 * may be opened there, so everything else is gathered before. Asking a Maildir for the GUID of a message that is
 * being saved ends the process (an assertion), so the GUID is chosen before the save begins.
 * Refuses: giving a copy another GUID than its source's. */
#include "capture.h"

static bool us_admit_save(struct mailbox *box, struct us_mailbox *mbox)
{
    const char *why;

    switch (us_account_admit(mbox->account, &why)) {
    case US_ADMIT_SKIP:
        return TRUE;
    case US_ADMIT_CAPTURE:
        if (!us_is_fenced(&why))
            return TRUE;
        break;
    case US_ADMIT_REFUSE:
        break;
    }
    us_set_refused(box, why);
    return FALSE;
}

static int us_save_begin(struct mail_save_context *ctx, struct istream *input)
{
    struct us_mailbox *mbox = US_MAILBOX_CONTEXT(ctx->transaction->box);
    struct us_txn *txn = US_TXN_CONTEXT(ctx->transaction);
    guid_128_t guid;

    if (txn != NULL) {
        /* Here, not only at the commit: it spares the client the rest. */
        if (!us_admit_save(ctx->transaction->box, mbox))
            return -1;
        if (ctx->data.guid == NULL) {
            guid_128_generate(guid);
            mailbox_save_set_guid(ctx, guid_128_to_string(guid));
        }
        txn->save_guid = p_strdup(txn->pool, ctx->data.guid);
        txn->save_received = ctx->data.received_date;
        txn->save_tz_minutes = ctx->data.received_date == (time_t)-1 ? 0 : ctx->data.received_tz_offset;
    }
    return mbox->module_ctx.super.save_begin(ctx, input);
}

static int us_copy(struct mail_save_context *ctx, struct mail *mail)
{
    struct mailbox *box = ctx->transaction->box;
    struct us_mailbox *mbox = US_MAILBOX_CONTEXT(box);
    struct us_txn *txn = US_TXN_CONTEXT(ctx->transaction);
    bool old_disable = box->disable_reflink_copy_to, raw;
    const char *guid;
    int ret;

    if (txn == NULL)
        return mbox->module_ctx.super.copy(ctx, mail);
    if (!us_admit_save(box, mbox)) {
        mailbox_save_cancel(&ctx);
        return -1;
    }
    raw = strcmp(mail->box->storage->name, "raw") == 0;
    txn->save_guid = p_strdup(txn->pool, ctx->data.guid);
    txn->save_received = ctx->data.received_date;
    txn->save_tz_minutes = 0;
    if (txn->save_guid == NULL && !raw && mail_get_special(mail, MAIL_FETCH_GUID, &guid) == 0 && *guid != '\0')
        txn->save_guid = p_strdup(txn->pool, guid);
    /* A hard link keeps the GUID of the source or takes the new file's name; where another one is wanted, or a
       delivery would get one that cannot be asked for, it has to be a real copy. */
    if (raw || ctx->data.guid != NULL)
        box->disable_reflink_copy_to = TRUE;
    ret = mbox->module_ctx.super.copy(ctx, mail);
    box->disable_reflink_copy_to = old_disable;
    return ret;
}

/* What a save and a copy have in common. `of` is the message that tells dates and sizes. */
static struct us_saved *us_saved_add(struct us_txn *txn, struct mail *mail, struct mail *of)
{
    struct us_saved *row = array_append_space(&txn->saved);
    enum mail_flags private = 0;
    const char *const *keywords;
    uoff_t size;
    time_t when;

    if (mail->box->v.get_private_flags_mask != NULL)
        private = mail->box->v.get_private_flags_mask(mail->box);
    row->guid = txn->save_guid;
    txn->save_guid = NULL;
    if (compat_unreadable(of)) {
        row->guid = NULL; /* a gap, if it is committed after all */
        return row;
    }
    row->flags = mail_get_flags(mail) & OP_FLAGS_ALL & ~(unsigned int)private;
    keywords = mail_get_keywords(mail);
    if (keywords != NULL && *keywords != NULL)
        row->keywords = p_strarray_dup(txn->pool, keywords);
    if (txn->save_received != (time_t)-1 && txn->save_received != 0)
        row->received = txn->save_received;
    else if (mail_get_received_date(of, &when) == 0)
        row->received = when;
    row->received_tz_minutes = txn->save_tz_minutes;
    if (mail_get_save_date(mail, &when) >= 0)
        row->saved = when;
    if (mail_get_physical_size(of, &size) == 0)
        row->size_physical = size;
    if (mail_get_virtual_size(of, &size) == 0)
        row->size_virtual = size;
    return row;
}

static void us_saved_body(struct us_txn *txn, struct us_saved *row, struct mail *mail)
{
    struct us_mailbox *mbox = US_MAILBOX_CONTEXT(txn->box);

    row->has_blob = us_blob_capture(mbox, mail, row->blob_id);
    if (!row->has_blob)
        txn->body_missing = TRUE;
}

void us_notify_save(void *_txn, struct mail *mail)
{
    struct us_txn *txn = _txn;

    if (txn != NULL)
        us_saved_body(txn, us_saved_add(txn, mail, mail), mail);
}

void us_notify_copy(void *_txn, struct mail *src, struct mail *dst)
{
    struct us_txn *txn = _txn;
    struct us_mailbox *mbox, *from;
    struct mail_save_context *save;
    struct us_saved *row;

    if (txn == NULL)
        return;
    save = dst->transaction->save_ctx;
    row = us_saved_add(txn, dst, save != NULL && !save->copying_via_save ? src : dst);
    mbox = US_MAILBOX_CONTEXT(txn->box);
    from = US_MAILBOX_CONTEXT(src->box);
    row->moved = save != NULL && save->moving;
    if (from != NULL && from->account == mbox->account && src->uid != 0 && us_mailbox_guid(src->box, from)) {
        row->copied = TRUE;
        guid_128_copy(row->source_guid, from->guid);
        row->source_uid = src->uid;
    } else {
        /* From another account: its replica may not have the source. */
        us_saved_body(txn, row, src);
    }
}

static void us_publish_saved(struct us_txn *txn, struct us_mailbox *mbox, const struct us_saved *row, uint32_t uid,
                             uint32_t uid_validity, bool last)
{
    enum op_kind kind = row->copied ? OP_MESSAGE_COPIED : OP_MESSAGE_SAVED;
    unsigned int i;
    struct op op;

    op_begin(&op, kind);
    op_put_guid(&op, OP_TAG_MAILBOX_GUID, mbox->guid);
    op_put_text(&op, OP_TAG_MAILBOX_NAME, mbox->name, OP_NAME_BYTES_MAX);
    op_put_u32(&op, OP_TAG_UID_VALIDITY, uid_validity);
    op_put_u32(&op, OP_TAG_UID, uid);
    op_put_text(&op, OP_TAG_MESSAGE_GUID, row->guid, OP_TEXT_BYTES_MAX);
    if (row->has_blob)
        op_put_bytes(&op, OP_TAG_BLOB_ID, row->blob_id, sizeof(row->blob_id), sizeof(row->blob_id));
    op_put_u64(&op, OP_TAG_SIZE_PHYSICAL, row->size_physical);
    op_put_u64(&op, OP_TAG_SIZE_VIRTUAL, row->size_virtual);
    op_put_u64(&op, OP_TAG_RECEIVED_S, (uint64_t)row->received);
    op_put_u32(&op, OP_TAG_RECEIVED_TZ_MINUTES, (uint32_t)row->received_tz_minutes);
    op_put_u64(&op, OP_TAG_SAVED_S, (uint64_t)row->saved);
    op_put_u32(&op, OP_TAG_FLAGS, row->flags);
    for (i = 0; row->keywords != NULL && row->keywords[i] != NULL; i++)
        op_put_keyword(&op, row->keywords[i]);
    op_put_u64(&op, OP_TAG_MODSEQ, compat_committed_modseq(txn->box));
    if (row->copied) {
        op_put_guid(&op, OP_TAG_SOURCE_MAILBOX_GUID, row->source_guid);
        op_put_u32(&op, OP_TAG_SOURCE_UID, row->source_uid);
        op_put_u32(&op, OP_TAG_MOVED, row->moved ? 1 : 0);
    }
    us_put_session(&op, txn->box, mbox);
    us_publish(mbox->account, &op, kind, last ? &txn->intent : NULL, last ? &txn->wait : NULL);
    op_free(&op);
}

static void us_transaction_save_commit_post(struct mail_save_context *save_ctx,
                                            struct mail_index_transaction_commit_result *result)
{
    struct mailbox_transaction_context *t = save_ctx->transaction;
    struct us_mailbox *mbox = US_MAILBOX_CONTEXT(t->box);
    struct us_txn *txn = US_TXN_CONTEXT(t);
    const struct us_saved *rows;
    struct seq_range_iter iter;
    struct mail stand_in;
    unsigned int i, count;
    uint32_t uid;
    bool alone;

    /* Called also when the index commit failed; then no change is listed. An intent that is not open means that
       nothing of this transaction is captured. */
    if (txn != NULL && txn->intent.begun && t->changes != NULL &&
        (t->changes->changes_mask & MAIL_INDEX_TRANSACTION_CHANGE_APPEND) != 0) {
        rows = array_get(&txn->saved, &count);
        us_mailbox_guid_again(t->box, mbox);
        if (count > 0 && seq_range_count(&t->changes->saved_uids) == count) {
            if (txn->body_missing)
                us_gap(mbox->account, "a message body was not written to the spool");
            alone = array_count(&txn->expunged) == 0 && array_count(&txn->flag_uids) == 0 &&
                    array_count(&txn->attributes) == 0;
            seq_range_array_iter_init(&iter, &t->changes->saved_uids);
            for (i = 0; i < count && seq_range_array_iter_nth(&iter, i, &uid); i++) T_BEGIN {
                if (rows[i].guid == NULL)
                    us_gap(mbox->account, "the GUID of a saved message is not known");
                else
                    us_publish_saved(txn, mbox, &rows[i], uid, t->changes->uid_validity, alone && i + 1 == count);
            } T_END;
            txn->saved_published = TRUE;
        }
    }
    compat_message_for_error(save_ctx, &stand_in);
    mbox->module_ctx.super.transaction_save_commit_post(save_ctx, result);
}

void us_save_override(struct mailbox_vfuncs *v)
{
    v->save_begin = us_save_begin;
    v->copy = us_copy;
    v->transaction_save_commit_post = us_transaction_save_commit_post;
}
