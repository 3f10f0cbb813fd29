/* Changes as the index sees them: which messages a transaction gives other flags, and what Dovecot itself finds
 * changed in the files of a Maildir.
 *
 * Owns: reading index transactions before they are committed, and the list of open mailboxes that a Maildir's index
 * belongs to. What can hurt: a session whose view is older than the store changes the store all the same when nothing
 * changes in its view (seen: a flag that another session had set and this one removed stayed on the replica), so what
 * counts is what is written, not what looks different. And a Maildir keeps flags in file names: a synchronisation
 * takes over what it finds there, which no session asked for.
 * Refuses: messages that a synchronisation finds gone; they look like the expunges that sessions asked for. */
#include "capture.h"

#include "mail-index-transaction-private.h"

static struct us_mailbox *opened;
static bool in_session_transaction;

static void us_add_range(struct mail_index_view *view, uint32_t seq1, uint32_t seq2, ARRAY_TYPE(seq_range) *uids)
{
    uint32_t uid, seq, last = mail_index_view_get_messages_count(view);

    /* Behind the last one are the messages that the transaction itself appends. */
    for (seq = seq1; seq >= 1 && seq <= seq2 && seq <= last; seq++) {
        mail_index_lookup_uid(view, seq, &uid);
        (void)seq_range_array_add(uids, uid);
    }
}

void us_index_flag_uids(struct mail_index_transaction *t, ARRAY_TYPE(seq_range) *uids)
{
    /* A flag that each user of a shared mailbox has for himself raises the message's modseq for all. */
    static const unsigned int seen_by_clients = OP_FLAGS_ALL | MAIL_INDEX_MAIL_FLAG_UPDATE_MODSEQ;
    const struct mail_index_transaction_keyword_update *keywords;
    const struct mail_index_flag_update *updates;
    const struct seq_range *range;
    unsigned int i;

    if (array_is_created(&t->updates)) {
        updates = array_front(&t->updates);
        for (i = 0; i < array_count(&t->updates); i++) {
            if (((updates[i].add_flags | updates[i].remove_flags) & seen_by_clients) != 0)
                us_add_range(t->view, updates[i].uid1, updates[i].uid2, uids);
        }
    }
    if (!array_is_created(&t->keyword_updates))
        return;
    array_foreach(&t->keyword_updates, keywords) {
        if (array_is_created(&keywords->add_seq)) {
            array_foreach(&keywords->add_seq, range)
                us_add_range(t->view, range->seq1, range->seq2, uids);
        }
        if (array_is_created(&keywords->remove_seq)) {
            array_foreach(&keywords->remove_seq, range)
                us_add_range(t->view, range->seq1, range->seq2, uids);
        }
    }
}

struct us_index_transaction {
    union mail_index_transaction_module_context module_ctx;
};

static MODULE_CONTEXT_DEFINE_INIT(us_index_transaction_module, &mail_index_module_register);

#define US_INDEX_TXN(obj) ((struct us_index_transaction *)MODULE_CONTEXT_REQUIRE(obj, us_index_transaction_module))

static struct us_mailbox *us_opened_with(const struct mail_index *index)
{
    struct us_mailbox *mbox;

    for (mbox = opened; mbox != NULL; mbox = mbox->next_opened) {
        if (mbox->box->index == index)
            return mbox;
    }
    return NULL;
}

static int us_found_commit(struct mail_index_transaction *t, struct mail_index_transaction_commit_result *result)
{
    struct us_index_transaction *found = US_INDEX_TXN(t);
    struct us_mailbox *mbox = us_opened_with(t->view->index);
    int ret;

    if (mbox != NULL) {
        us_index_flag_uids(t, &mbox->found_flag_uids);
        if (array_is_created(&t->appends) && array_count(&t->appends) > 0)
            mbox->found_messages = TRUE;
    }
    ret = found->module_ctx.super.commit(t, result);
    i_free(found);
    return ret;
}

static void us_found_rollback(struct mail_index_transaction *t)
{
    struct us_index_transaction *found = US_INDEX_TXN(t);

    found->module_ctx.super.rollback(t);
    i_free(found);
}

static void us_index_transaction_created(struct mail_index_transaction *t)
{
    struct us_index_transaction *found;
    struct mail_index_transaction_vfuncs *v;

    /* 2.3 leaves it unset and reads it after each hook. */
    if (t->vlast == NULL)
        t->vlast = &t->v;
    v = t->vlast;
    if ((t->flags & MAIL_INDEX_TRANSACTION_FLAG_EXTERNAL) == 0 || in_session_transaction ||
        us_opened_with(t->view->index) == NULL)
        return;
    found = i_new(struct us_index_transaction, 1);
    found->module_ctx.super = *v;
    t->vlast = &found->module_ctx.super;
    v->commit = us_found_commit;
    v->rollback = us_found_rollback;
    MODULE_CONTEXT_SET(t, us_index_transaction_module, found);
}

void us_index_session_transaction(bool begins)
{
    in_session_transaction = begins;
}

void us_index_opened(struct mailbox *box, struct us_mailbox *mbox)
{
    if (mbox->box != NULL)
        return;
    mbox->box = box;
    i_array_init(&mbox->found_flag_uids, 8);
    mbox->next_opened = opened;
    opened = mbox;
}

void us_index_freed(struct us_mailbox *mbox)
{
    struct us_mailbox **at;

    if (mbox->box == NULL)
        return;
    for (at = &opened; *at != NULL; at = &(*at)->next_opened) {
        if (*at == mbox) {
            *at = mbox->next_opened;
            break;
        }
    }
    if (mbox->found_messages || array_count(&mbox->found_flag_uids) > 0)
        us_gap(mbox->account, "a Maildir was changed past Dovecot");
    array_free(&mbox->found_flag_uids);
    mbox->box = NULL;
}

void us_index_init(void)
{
    mail_index_transaction_hook_register(us_index_transaction_created);
}

void us_index_deinit(void)
{
    mail_index_transaction_hook_unregister(us_index_transaction_created);
}
