/* Messages saved and copied, with the origin's UID, GUID, dates, flags and keywords.
 *
 * Owns: one external transaction over a row of saves into one mailbox, in ascending UIDs. What can hurt: Dovecot
 * gives a message whose UID is below the next one a new UID, silently; so that is looked at before, and what the
 * commit assigned is compared with what was asked for. Body files are the agent's: opened without following links,
 * regular files only, of the size that the operation names. Refuses: inventing a body; without source and body
 * the agent is asked for it. */

#include "replay.h"

#include "istream.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#define SAVE_FLAGS                                                                                                     \
    (MAILBOX_TRANSACTION_FLAG_SYNC | MAILBOX_TRANSACTION_FLAG_NO_NOTIFY | MAILBOX_TRANSACTION_FLAG_EXTERNAL |          \
     MAILBOX_TRANSACTION_FLAG_ASSIGN_UIDS)

static void try_singly(struct replay_apply *ap, const ARRAY_TYPE(uint32_t) *queued)
{
    const uint32_t *index;

    ap->single = TRUE;
    array_foreach(queued, index) T_BEGIN {
        struct replay_result *result = &ap->items[*index].result;

        if (!replay_stopped(ap, result)) {
            replay_apply_message(ap, *index);
            replay_run_end(ap);
            ap->stopped = ap->stopped || result->status > REPLAY_ALREADY;
        }
        result->text = p_strdup(ap->pool, result->text);
    } T_END;
    ap->single = FALSE;
}

/* Undoes the transaction and tries its operations one by one. */
static void redo(struct replay_apply *ap)
{
    ARRAY_TYPE(uint32_t) queued;
    const unsigned int *index;

    t_array_init(&queued, 16);
    array_foreach(&ap->run.queued, index)
        array_push_back(&queued, index);
    array_clear(&ap->run.queued);
    ap->run.kind = REPLAY_RUN_NONE;
    ap->run.last_uid = 0;
    /* What was queued raised the mailbox's next UID. */
    replay_box_close(&ap->current);
    if (array_count(&queued) > 0)
        try_singly(ap, &queued);
}

/* A message that did not get its UID must go again: it would stand for another. */
static void take_back(struct replay_apply *ap, uint32_t uid)
{
    struct mailbox_transaction_context *t;
    struct mail *mail;

    t = mailbox_transaction_begin(ap->current.box, MAILBOX_TRANSACTION_FLAG_NO_NOTIFY, "understudy replay");
    mail = mail_alloc(t, 0, NULL);
    if (mail_set_uid(mail, uid))
        mail_expunge(mail);
    mail_free(&mail);
    (void)mailbox_transaction_commit(&t);
}

static void judge(struct replay_apply *ap, const struct mail_transaction_commit_changes *changes)
{
    struct seq_range_iter iter;
    unsigned int n = 0;
    const unsigned int *index;
    bool taken_back = FALSE;

    seq_range_array_iter_init(&iter, &changes->saved_uids);
    array_foreach(&ap->run.queued, index) {
        struct replay_item *item = &ap->items[*index];
        uint32_t uid = 0;

        if (!seq_range_array_iter_nth(&iter, n++, &uid) || uid != item->op.uid) {
            if (uid != 0)
                take_back(ap, uid);
            taken_back = ap->stopped = TRUE;
            replay_set(&item->result, REPLAY_CONFLICT, "the mailbox's next UID has passed the message's");
        } else {
            replay_set(&item->result, REPLAY_APPLIED, "");
        }
    }
    if (taken_back)
        (void)replay_box_sync(&ap->current);
}

void replay_save_commit(struct replay_apply *ap)
{
    struct mail_transaction_commit_changes changes;
    struct replay_result failed;
    const unsigned int *index;
    bool single;

    if (mailbox_transaction_commit_get_changes(&ap->run.t, &changes) < 0) {
        replay_error(mailbox_get_storage(ap->current.box), "messages cannot be committed", &failed);
        single = ap->single || array_count(&ap->run.queued) == 1;
        if (single) {
            failed.text = p_strdup(ap->pool, failed.text);
            ap->stopped = TRUE;
            array_foreach(&ap->run.queued, index)
                ap->items[*index].result = failed;
            replay_box_close(&ap->current);
        } else {
            redo(ap);
        }
        return;
    }
    replay_box_look_end(&ap->current);
    if (mailbox_sync(ap->current.box, 0) < 0)
        i_warning("synchronising a mailbox of %s after a commit failed", ap->user->name);
    judge(ap, &changes);
    pool_unref(&changes.pool);
    if (replay_box_sync(&ap->current) < 0)
        replay_box_close(&ap->current);
}

static void begin(struct replay_apply *ap)
{
    /* Looking at messages and saving into the same mailbox do not mix: the look holds a view. */
    replay_box_look_end(&ap->current);
    ap->run.kind = REPLAY_RUN_SAVE;
    ap->run.t = mailbox_transaction_begin(ap->current.box, SAVE_FLAGS, "understudy replay");
}

static struct istream *open_body(const struct us_op *op, struct replay_result *result)
{
    struct stat st;
    int fd;

    if (*op->body_path != '/') {
        replay_set(result, REPLAY_NO_BODY, "no body path");
        return NULL;
    }
    fd = open(op->body_path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
    if (fd < 0) {
        replay_set(result, REPLAY_NO_BODY, t_strdup_printf("body cannot be opened: %m"));
        return NULL;
    }
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) ||
        (op->size_physical_bytes != 0 && (uint64_t)st.st_size != op->size_physical_bytes)) {
        i_close_fd(&fd);
        replay_set(result, REPLAY_NO_BODY, "body is not a file of the right size");
        return NULL;
    }
    return i_stream_create_fd_autoclose(&fd, 65536);
}

static struct mail_save_context *save_alloc(struct replay_apply *ap, const struct us_op *op)
{
    struct mail_save_context *save = mailbox_save_alloc(ap->run.t);
    struct mail_keywords *keywords = mailbox_keywords_create_valid(ap->current.box, op->keywords);

    mailbox_save_set_flags(save, replay_flags(op->flags), keywords);
    mailbox_keywords_unref(&keywords);
    mailbox_save_set_uid(save, op->uid);
    mailbox_save_set_guid(save, op->guid);
    if (op->received_s != 0)
        mailbox_save_set_received_date(save, (time_t)op->received_s, op->received_tz_minutes);
    if (op->saved_s != 0)
        mailbox_save_set_save_date(save, (time_t)op->saved_s);
    if (op->modseq != 0)
        mailbox_save_set_min_modseq(save, op->modseq);
    return save;
}

/* FALSE: the transaction is spoiled. */
static bool save_stream(struct replay_apply *ap, const struct us_op *op, struct istream *input,
                        struct replay_result *result)
{
    struct mail_save_context *save = save_alloc(ap, op);
    struct mail_storage *storage = mailbox_get_storage(ap->current.box);
    ssize_t ret;

    if (mailbox_save_begin(&save, input) < 0) {
        replay_error(storage, "message cannot be saved", result);
        return FALSE;
    }
    do {
        if (mailbox_save_continue(save) < 0) {
            replay_error(storage, "message cannot be saved", result);
            mailbox_save_cancel(&save);
            return FALSE;
        }
    } while ((ret = i_stream_read(input)) > 0);
    if (input->stream_errno != 0) {
        replay_set(result, REPLAY_NO_BODY, t_strdup_printf("body cannot be read: %s", i_stream_get_error(input)));
        mailbox_save_cancel(&save);
        return FALSE;
    }
    if (mailbox_save_finish(&save) < 0) {
        replay_error(storage, "message cannot be saved", result);
        return FALSE;
    }
    return TRUE;
}

static struct mail *source_mail(struct replay_apply *ap, const struct us_op *op)
{
    struct replay_result ignored;
    struct mail *mail;
    const char *guid;

    if (op->kind != OP_MESSAGE_COPIED ||
        !replay_box_open(ap, &ap->source, op->source_mailbox, 0, &ignored))
        return NULL;
    mail = replay_box_look(&ap->source, op->source_uid);
    if (mail == NULL || mail_get_special(mail, MAIL_FETCH_GUID, &guid) < 0 ||
        strcmp(guid, op->guid) != 0)
        return NULL;
    return mail;
}

/* The message is there already, or its UID is taken or passed: says which, and TRUE. */
static bool settled(struct replay_apply *ap, const struct us_op *op, struct replay_result *result)
{
    struct mail *mail;
    const char *guid;

    if (op->uid >= ap->current.next_uid)
        return FALSE;
    mail = replay_box_look(&ap->current, op->uid);
    if (mail != NULL) {
        if (mail_get_special(mail, MAIL_FETCH_GUID, &guid) < 0)
            replay_error(mailbox_get_storage(ap->current.box), "message cannot be read", result);
        else if (strcmp(guid, op->guid) == 0)
            replay_set(result, REPLAY_ALREADY, "");
        else
            replay_set(result, REPLAY_CONFLICT, t_strdup_printf("UID `%u` is another message", op->uid));
    } else if (replay_box_was_expunged(&ap->current, op->uid, op->guid)) {
        replay_set(result, REPLAY_ALREADY, "");
    } else {
        replay_set(result, REPLAY_CONFLICT,
                   t_strdup_printf("UID `%u` is below the mailbox's next, `%u`", op->uid, ap->current.next_uid));
    }
    return TRUE;
}

/* The mailbox of the operation, opened; made if only its name is known. */
static bool target(struct replay_apply *ap, const struct us_op *op, struct replay_result *result)
{
    bool made;

    if (ap->current.box != NULL && guid_128_equals(ap->current.guid, op->mailbox))
        return replay_box_open(ap, &ap->current, op->mailbox, op->uid_validity, result);
    replay_box_keep(ap->user, &ap->current);
    return replay_mailbox_ensure_open(ap, op, &made, result);
}

static bool run_goes_on(const struct replay_apply *ap, const struct us_op *op)
{
    return ap->run.kind == REPLAY_RUN_SAVE && guid_128_equals(ap->current.guid, op->mailbox) &&
           array_count(&ap->run.queued) < REPLAY_RUN_OPS_MAX && op->uid > ap->run.last_uid &&
           (op->uid_validity == 0 || op->uid_validity == ap->current.uid_validity) &&
           /* A copy inside the mailbox may want what is queued. */
           !(op->kind == OP_MESSAGE_COPIED && guid_128_equals(op->source_mailbox, op->mailbox));
}

void replay_apply_message(struct replay_apply *ap, unsigned int index)
{
    const struct us_op *op = &ap->items[index].op;
    struct replay_result *result = &ap->items[index].result;
    struct istream *input = NULL;
    struct mail *source;
    bool saved;

    if (!run_goes_on(ap, op)) {
        replay_run_end(ap);
        if (replay_stopped(ap, result) || !target(ap, op, result) || settled(ap, op, result))
            return;
    } else if (settled(ap, op, result)) {
        return;
    }
    source = source_mail(ap, op);
    if (source == NULL) {
        if (op->kind == OP_MESSAGE_COPIED && *op->body_path == '\0') {
            replay_set(result, REPLAY_NO_SOURCE, "source of the copy is not here");
            return;
        }
        input = open_body(op, result);
        if (input == NULL)
            return;
    }
    if (ap->run.kind == REPLAY_RUN_NONE)
        begin(ap);
    if (source != NULL) {
        struct mail_save_context *save = save_alloc(ap, op);

        saved = mailbox_copy(&save, source) == 0;
        if (!saved)
            replay_error(mailbox_get_storage(ap->current.box), "message cannot be copied", result);
    } else {
        saved = save_stream(ap, op, input, result);
        i_stream_unref(&input);
    }
    if (!saved) {
        result->text = p_strdup(ap->pool, result->text);
        mailbox_transaction_rollback(&ap->run.t);
        redo(ap);
        return;
    }
    array_push_back(&ap->run.queued, &index);
    ap->run.last_uid = op->uid;
    ap->current.next_uid = op->uid + 1;
}
