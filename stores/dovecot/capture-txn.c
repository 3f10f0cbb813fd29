/* Transactions: what a commit changed besides new messages, and the order of intent, commit, publication, wait.
 *
 * Owns: the plugin's state of a transaction, from begin to commit or rollback; flags and expunges.
 * What can hurt: Dovecot frees the transaction inside its commit. There is no lock under which flag changes of
 * several sessions could be published in their order, so a flag operation carries the message's whole state and
 * its modseq, read after the commit: the highest wins wherever they arrive. An expunge is a request when it is
 * made; once committed it is in the index log and the next sync carries it out, so it is published then.
 * Refuses: changes of an account that may not be changed here, before the commit; transactions that ask not to
 * be noticed (MAILBOX_TRANSACTION_FLAG_NO_NOTIFY), which is how a replay writes. */
#include "capture.h"

static bool us_txn_has_changes(const struct us_txn *txn)
{
    return array_count(&txn->saved) > 0 || array_count(&txn->expunged) > 0 || array_count(&txn->attributes) > 0 ||
           array_count(&txn->flag_uids) > 0;
}

static void us_txn_free(struct us_txn **_txn)
{
    struct us_txn *txn = *_txn;

    *_txn = NULL;
    if (txn != NULL)
        pool_unref(&txn->pool);
}

static struct mailbox_transaction_context *
us_transaction_begin(struct mailbox *box, enum mailbox_transaction_flags flags, const char *reason)
{
    struct us_mailbox *mbox = US_MAILBOX_CONTEXT(box);
    struct mailbox_transaction_context *t;
    struct us_txn *txn;
    const char *why;
    pool_t pool;

    us_mailbox_wait_deferred(mbox);
    if ((flags & MAILBOX_TRANSACTION_FLAG_NO_NOTIFY) != 0 || us_account_admit(mbox->account, &why) == US_ADMIT_SKIP)
        return mbox->module_ctx.super.transaction_begin(box, flags, reason);

    /* Otherwise a delivery may leave the UID to whoever syncs next. */
    flags |= MAILBOX_TRANSACTION_FLAG_ASSIGN_UIDS;
    us_index_session_transaction(TRUE);
    t = mbox->module_ctx.super.transaction_begin(box, flags, reason);
    us_index_session_transaction(FALSE);
    if (t == NULL)
        return NULL;
    pool = pool_alloconly_create("understudy transaction", 1024);
    txn = p_new(pool, struct us_txn, 1);
    txn->pool = pool;
    txn->box = box;
    p_array_init(&txn->saved, pool, 4);
    p_array_init(&txn->expunged, pool, 4);
    p_array_init(&txn->attributes, pool, 1);
    p_array_init(&txn->flag_uids, pool, 4);
    MODULE_CONTEXT_SET(t, us_storage_module, txn);
    return t;
}

/* The state of these messages as the index has it now. `txn`: closed by the last one, or NULL. */
static void us_publish_flags(struct mailbox *box, struct us_mailbox *mbox, const ARRAY_TYPE(seq_range) *uids,
                             struct us_txn *txn)
{
    struct mail_index *index = box->index;
    const ARRAY_TYPE(keywords) *names;
    struct mail_index_view *view;
    struct seq_range_iter iter;
    unsigned int n = 0, count = seq_range_count(uids);
    uint32_t uid, seq;

    if (index == NULL || mail_index_refresh(index) < 0) {
        /* Of a mailbox that was deleted meanwhile there is nothing to tell; one that was renamed is still there. */
        if (!box->mailbox_deleted && (index == NULL || !mail_index_is_deleted(index)))
            us_gap(mbox->account, "flags cannot be read back");
        return;
    }
    view = mail_index_view_open(index);
    names = mail_index_get_keywords(index);
    seq_range_array_iter_init(&iter, uids);
    while (seq_range_array_iter_nth(&iter, n++, &uid)) T_BEGIN {
        struct op op;

        /* One that is gone was expunged by somebody, who tells it. */
        if (mail_index_lookup_seq(view, uid, &seq)) {
            const struct mail_index_record *rec = mail_index_lookup(view, seq);
            ARRAY_TYPE(keyword_indexes) keywords;
            unsigned int i;

            op_begin(&op, OP_FLAGS_SET);
            op_put_guid(&op, OP_TAG_MAILBOX_GUID, mbox->guid);
            op_put_u32(&op, OP_TAG_UID, uid);
            op_put_u32(&op, OP_TAG_FLAGS, rec->flags & OP_FLAGS_ALL);
            t_array_init(&keywords, 16);
            mail_index_lookup_keywords(view, seq, &keywords);
            for (i = 0; i < array_count(&keywords); i++) {
                unsigned int at = *array_idx(&keywords, i);
                if (at < array_count(names))
                    op_put_keyword(&op, *array_idx(names, at));
            }
            op_put_u64(&op, OP_TAG_MODSEQ, mail_index_modseq_lookup(view, seq));
            us_put_session(&op, box, mbox);
            us_publish(mbox->account, &op, OP_FLAGS_SET, txn != NULL && n == count ? &txn->intent : NULL,
                       txn != NULL && n == count ? &txn->wait : NULL);
            op_free(&op);
        }
    } T_END;
    mail_index_view_close(&view);
}

static void us_publish_expunges(struct us_txn *txn, struct us_mailbox *mbox)
{
    const struct us_expunged *rows;
    unsigned int i, count;
    struct op op;

    rows = array_get(&txn->expunged, &count);
    for (i = 0; i < count; i++) {
        op_begin(&op, OP_MESSAGE_EXPUNGED);
        op_put_guid(&op, OP_TAG_MAILBOX_GUID, mbox->guid);
        op_put_u32(&op, OP_TAG_UID, rows[i].uid);
        op_put_text(&op, OP_TAG_MESSAGE_GUID, rows[i].guid, OP_TEXT_BYTES_MAX);
        us_put_session(&op, txn->box, mbox);
        us_publish(mbox->account, &op, OP_MESSAGE_EXPUNGED, i + 1 == count ? &txn->intent : NULL,
                   i + 1 == count ? &txn->wait : NULL);
        op_free(&op);
    }
}

/* After the commit and outside every lock: what has no place in the lock of the save. */
static void us_txn_publish(struct us_txn *txn, struct us_mailbox *mbox)
{
    bool expunges = array_count(&txn->expunged) > 0;
    bool flags = array_count(&txn->flag_uids) > 0;

    if (array_count(&txn->saved) > 0 && !txn->saved_published)
        us_gap(mbox->account, "the UIDs of saved messages are not known");
    if (array_count(&txn->attributes) > 0)
        us_attributes_publish(txn, mbox, !expunges && !flags);
    if (flags)
        us_publish_flags(txn->box, mbox, &txn->flag_uids, expunges ? NULL : txn);
    if (expunges)
        us_publish_expunges(txn, mbox);
}

void us_found_publish(struct mailbox *box, struct us_mailbox *mbox)
{
    const char *why;

    if (mbox->box == NULL || (!mbox->found_messages && array_count(&mbox->found_flag_uids) == 0))
        return;
    if (us_account_admit(mbox->account, &why) != US_ADMIT_SKIP) {
        if (mbox->found_messages)
            us_gap(mbox->account, "messages were put into a Maildir past Dovecot");
        if (!us_mailbox_guid(box, mbox)) {
            if (!us_is_gone(box))
                us_gap(mbox->account, "a mailbox has no GUID");
        } else if (array_count(&mbox->found_flag_uids) > 0)
            us_publish_flags(box, mbox, &mbox->found_flag_uids, NULL);
    }
    mbox->found_messages = FALSE;
    array_clear(&mbox->found_flag_uids);
}

/* After a commit that failed: whether it is certain that the store has nothing of it. In a mailbox that was deleted
 * meanwhile every write to the index fails; files that a save has left in a Maildir which was renamed meanwhile are
 * found by its next synchronisation. METADATA are committed on their own. */
static bool us_nothing_committed(const struct us_txn *txn)
{
    return !txn->saved_published && array_count(&txn->attributes) == 0 &&
           (us_is_gone(txn->box) || mailbox_get_last_mail_error(txn->box) == MAIL_ERROR_NOTFOUND);
}

static int us_transaction_refuse(struct mailbox_transaction_context *t, struct us_mailbox *mbox, const char *why)
{
    struct mailbox *box = t->box;

    mbox->module_ctx.super.transaction_rollback(t);
    us_set_refused(box, why);
    return -1;
}

static int us_transaction_commit(struct mailbox_transaction_context *t,
                                 struct mail_transaction_commit_changes *changes_r)
{
    struct mailbox *box = t->box;
    struct us_mailbox *mbox = US_MAILBOX_CONTEXT(box);
    struct us_txn *txn = US_TXN_CONTEXT(t);
    const char *why = "";
    int ret;

    if (txn != NULL)
        us_index_flag_uids(t->itrans, &txn->flag_uids);
    if (txn == NULL || !us_txn_has_changes(txn)) {
        ret = mbox->module_ctx.super.transaction_commit(t, changes_r);
        us_txn_free(&txn);
        return ret;
    }
    switch (us_account_admit(mbox->account, &why)) {
    case US_ADMIT_SKIP:
        ret = mbox->module_ctx.super.transaction_commit(t, changes_r);
        us_txn_free(&txn);
        return ret;
    case US_ADMIT_REFUSE:
        ret = us_transaction_refuse(t, mbox, why);
        us_txn_free(&txn);
        return ret;
    case US_ADMIT_CAPTURE:
        break;
    }
    if (txn->body_missing && us_account_needs_body(mbox->account)) {
        ret = us_transaction_refuse(t, mbox, "the message cannot be replicated at this time, try again later");
        us_txn_free(&txn);
        return ret;
    }
    /* Here, too: without a GUID no intent follows. */
    if (us_is_fenced(&why)) {
        ret = us_transaction_refuse(t, mbox, why);
        us_txn_free(&txn);
        return ret;
    }
    if (!us_mailbox_guid(box, mbox)) {
        bool gone = us_is_gone(box);

        if (!gone)
            us_gap(mbox->account, "a mailbox has no GUID");
        ret = mbox->module_ctx.super.transaction_commit(t, changes_r);
        if (gone && ret == 0)
            us_gap(mbox->account, "a mailbox that was gone was changed");
        us_txn_free(&txn);
        return ret;
    }
    if (!us_intent_begin(mbox->account, mbox->guid, &txn->intent, &why)) {
        ret = us_transaction_refuse(t, mbox, why);
        us_txn_free(&txn);
        return ret;
    }

    ret = mbox->module_ctx.super.transaction_commit(t, changes_r);
    /* `t` is freed. */
    if (ret == 0)
        us_txn_publish(txn, mbox);
    else if (!us_nothing_committed(txn))
        us_gap(mbox->account, "a commit failed, perhaps half way");
    us_intent_end(mbox->account, &txn->intent); /* nothing to do when an operation closed it */
    /* DELETE empties the mailbox under the lock of the list. */
    if (box->deleting || box->creating)
        us_wait_later(&mbox->deferred, &txn->wait);
    if (!us_wait(mbox->account, &txn->wait, &why) && ret == 0) {
        /* It is committed and cannot be undone; the client is told that it may not be safe. The caller frees
           the list of changes. */
        us_set_refused(box, why);
        ret = -1;
    }
    us_txn_free(&txn);
    return ret;
}

static void us_transaction_rollback(struct mailbox_transaction_context *t)
{
    struct us_mailbox *mbox = US_MAILBOX_CONTEXT(t->box);
    struct us_txn *txn = US_TXN_CONTEXT(t);

    mbox->module_ctx.super.transaction_rollback(t);
    us_txn_free(&txn);
}

static void *us_notify_transaction_begin(struct mailbox_transaction_context *t)
{
    /* Mailboxes that are not ours (input of LMTP, virtual ones) have no state. */
    return US_MAILBOX_CONTEXT(t->box) == NULL ? NULL : US_TXN_CONTEXT(t);
}

static void us_notify_expunge(void *_txn, struct mail *mail)
{
    struct us_txn *txn = _txn;
    enum mail_lookup_abort old_abort = mail->lookup_abort;
    struct us_expunged *row;
    const char *guid;

    if (txn == NULL || mail->uid == 0)
        return;
    row = array_append_space(&txn->expunged);
    row->uid = mail->uid;
    /* Only if it costs no look into the message. */
    mail->lookup_abort = MAIL_LOOKUP_ABORT_READ_MAIL;
    mail_storage_last_error_push(mail->box->storage);
    if (mail_get_special(mail, MAIL_FETCH_GUID, &guid) == 0 && *guid != '\0')
        row->guid = p_strdup(txn->pool, guid);
    mail_storage_last_error_pop(mail->box->storage);
    mail->lookup_abort = old_abort;
}

const struct notify_vfuncs us_notify_vfuncs = {
    .mail_transaction_begin = us_notify_transaction_begin,
    .mail_save = us_notify_save,
    .mail_copy = us_notify_copy,
    .mail_expunge = us_notify_expunge,
};

void us_txn_override(struct mailbox_vfuncs *v)
{
    v->transaction_begin = us_transaction_begin;
    v->transaction_commit = us_transaction_commit;
    v->transaction_rollback = us_transaction_rollback;
}
