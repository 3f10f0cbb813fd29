/* Flags, keywords and expunges of messages that are there.
 *
 * Owns: one transaction over a row of changes in one mailbox. What can hurt: two keyword updates of one message in
 * one transaction: Dovecot compares the second with what is committed and drops it when it restores that; so a
 * message that comes again ends the transaction first. Refuses: creating a mailbox; judging which flags are newer. */

#include "replay.h"

/* The whole transaction failed or succeeded: says so for each of its operations. */
void replay_change_commit(struct replay_apply *ap)
{
    struct replay_result result = { REPLAY_APPLIED, "" };
    const unsigned int *index;

    mail_free(&ap->run.mail);
    if (mailbox_transaction_commit(&ap->run.t) < 0 || replay_box_sync(&ap->current) < 0)
        replay_error(mailbox_get_storage(ap->current.box), "changes cannot be committed", &result);
    result.text = p_strdup(ap->pool, result.text);
    ap->stopped = ap->stopped || result.status > REPLAY_ALREADY;
    array_foreach(&ap->run.queued, index)
        ap->items[*index].result = result;
    array_clear(&ap->run.queued);
}

static bool queued_already(struct replay_apply *ap, uint32_t uid)
{
    const unsigned int *index;

    array_foreach(&ap->run.queued, index) {
        if (ap->items[*index].op.uid == uid)
            return TRUE;
    }
    return FALSE;
}

static void begin(struct replay_apply *ap)
{
    ap->run.kind = REPLAY_RUN_CHANGE;
    ap->run.t = mailbox_transaction_begin(ap->current.box,
                                          MAILBOX_TRANSACTION_FLAG_SYNC | MAILBOX_TRANSACTION_FLAG_NO_NOTIFY,
                                          "understudy replay");
    ap->run.mail = mail_alloc(ap->run.t, MAIL_FETCH_FLAGS, NULL);
}

/* The origin named a message; another of that UID is a conflict. */
static bool same_message(struct mail *mail, const char *guid, struct replay_result *result)
{
    const char *here;

    if (*guid == '\0')
        return TRUE;
    if (mail_get_special(mail, MAIL_FETCH_GUID, &here) < 0) {
        replay_error(mailbox_get_storage(mail->box), "message cannot be read", result);
        return FALSE;
    }
    if (strcmp(here, guid) == 0)
        return TRUE;
    replay_set(result, REPLAY_CONFLICT, t_strdup_printf("UID `%u` is another message", mail->uid));
    return FALSE;
}

static bool has_keyword(const ARRAY_TYPE(keyword_indexes) *keywords, unsigned int wanted)
{
    unsigned int i;

    for (i = 0; i < array_count(keywords); i++) {
        if (*array_idx(keywords, i) == wanted)
            return TRUE;
    }
    return FALSE;
}

/* TRUE when something had to be changed. */
static bool set_flags(struct replay_apply *ap, const struct us_op *op)
{
    enum mail_flags flags = replay_flags(op->flags);
    struct mail *mail = ap->run.mail;
    bool flags_same = (mail_get_flags(mail) & MAIL_FLAGS_NONRECENT) == flags, keywords_same;
    struct mail_keywords *keywords = mailbox_keywords_create_valid(mail->box, op->keywords);
    const ARRAY_TYPE(keyword_indexes) *have = mail_get_keyword_indexes(mail);
    unsigned int i;

    /* Neither has duplicates, so that equal in number and all of one in the other is equal. */
    keywords_same = keywords->count == array_count(have);
    for (i = 0; keywords_same && i < keywords->count; i++)
        keywords_same = has_keyword(have, keywords->idx[i]);
    if (!flags_same)
        mail_update_flags(mail, MODIFY_REPLACE, flags);
    if (!keywords_same)
        mail_update_keywords(mail, MODIFY_REPLACE, keywords);
    mailbox_keywords_unref(&keywords);
    if (op->modseq > mail_get_modseq(mail)) {
        mail_update_modseq(mail, op->modseq);
        return TRUE;
    }
    return !flags_same || !keywords_same;
}

void replay_apply_change(struct replay_apply *ap, unsigned int index)
{
    const struct us_op *op = &ap->items[index].op;
    struct replay_result *result = &ap->items[index].result;

    if (ap->run.kind != REPLAY_RUN_CHANGE || !guid_128_equals(ap->current.guid, op->mailbox) ||
        array_count(&ap->run.queued) >= REPLAY_RUN_OPS_MAX || queued_already(ap, op->uid))
        replay_run_end(ap);
    if (replay_stopped(ap, result))
        return;
    if (!replay_box_open(ap, &ap->current, op->mailbox, 0, result))
        return;
    if (ap->run.kind == REPLAY_RUN_NONE)
        begin(ap);
    if (!replay_box_seek(&ap->current, ap->run.mail, op->uid)) {
        if (op->kind == OP_MESSAGE_EXPUNGED || op->uid < ap->current.next_uid)
            replay_set(result, REPLAY_ALREADY, "");
        else
            replay_set(result, REPLAY_CONFLICT, t_strdup_printf("UID `%u` has not come yet", op->uid));
        return;
    }
    if (!same_message(ap->run.mail, op->guid, result))
        return;
    if (op->kind == OP_MESSAGE_EXPUNGED) {
        mail_expunge(ap->run.mail);
    } else if (!set_flags(ap, op)) {
        replay_set(result, REPLAY_ALREADY, "");
        return;
    }
    array_push_back(&ap->run.queued, &index);
}
