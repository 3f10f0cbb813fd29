/* INBOX made anew: it cannot be deleted; in a Maildir it is the account's root folder.
 *
 * Owns: of a Maildir, emptying it and taking away the files that hold its identity, counters and log, so that the next
 * operation gives it the origin's; of an sdbox or mdbox, giving it another name and deleting it under that.
 * What can hurt: a user who has it open: Dovecot tells the session that UIDVALIDITY changed and ends it, as after every
 * such change; a replica has no users. Refuses: every other mailbox. */

#include "replay.h"

#include "mail-index-alloc-cache.h"
#include "mail-search-build.h"
#include "mail-storage-private.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

static int expunge_all(struct mailbox *box)
{
    struct mailbox_transaction_context *t;
    struct mail_search_context *search;
    struct mail_search_args *args = mail_search_build_init();
    struct mail *mail;
    int ret;

    t = mailbox_transaction_begin(box, MAILBOX_TRANSACTION_FLAG_SYNC | MAILBOX_TRANSACTION_FLAG_NO_NOTIFY,
                                  "understudy replay");
    mail_search_build_add_all(args);
    search = mailbox_search_init(t, args, NULL, 0, NULL);
    mail_search_args_unref(&args);
    while (mailbox_search_next(search, &mail))
        mail_expunge(mail);
    ret = mailbox_search_deinit(&search);
    if (mailbox_transaction_commit(&t) < 0)
        ret = -1;
    return ret < 0 ? -1 : mailbox_sync(box, MAILBOX_SYNC_FLAG_FULL_WRITE);
}

static int unlink_in(const char *folder, const char *name)
{
    return unlink(t_strconcat(folder, "/", name, NULL)) < 0 && errno != ENOENT ? -1 : 0;
}

/* Takes the files away that hold identity, counters and log. Dovecot keeps an index in the process for a while after
 * its mailbox is freed, and would go on with what it knows of files that have no name any more; so that ends first. */
static int forget(struct mailbox **box)
{
    static const char *const index_files[] = { "dovecot.index", "dovecot.index.log", "dovecot.index.log.2",
                                               "dovecot.index.cache" };
    struct mailbox_list *list = mailbox_get_namespace(*box)->list;
    const char *name = t_strdup(mailbox_get_vname(*box));
    const char *index, *control;
    unsigned int i;

    if (mailbox_get_path_to(*box, MAILBOX_LIST_PATH_TYPE_INDEX, &index) <= 0 ||
        mailbox_get_path_to(*box, MAILBOX_LIST_PATH_TYPE_CONTROL, &control) <= 0) {
        errno = EINVAL;
        return -1;
    }
    index = t_strdup(index);
    control = t_strdup(control);
    mailbox_free(box);
    mail_index_alloc_cache_destroy_unrefed();
    *box = mailbox_alloc(list, name, MAILBOX_FLAG_IGNORE_ACLS);
    for (i = 0; i < N_ELEMENTS(index_files); i++) {
        if (unlink_in(index, index_files[i]) < 0)
            return -1;
    }
    return unlink_in(control, "dovecot-uidlist");
}

static bool is_maildir(struct mailbox *box)
{
    return strcmp(mailbox_get_storage(box)->name, "maildir") == 0;
}

/* For formats in which INBOX is a folder like others. The handle is closed, and the mailbox is not there. */
static bool put_away(struct mailbox **box, struct replay_result *result)
{
    struct mail_namespace *ns = mailbox_get_namespace(*box);
    const char *name = t_strdup(mailbox_get_vname(*box));
    struct mailbox *away;
    guid_128_t random;
    bool ok = FALSE;

    guid_128_generate(random);
    mailbox_free(box);
    *box = mailbox_alloc(ns->list, name, MAILBOX_FLAG_IGNORE_ACLS);
    away = mailbox_alloc(ns->list, t_strconcat(ns->prefix, "understudy-", guid_128_to_string(random), NULL),
                         MAILBOX_FLAG_IGNORE_ACLS);
    if (mailbox_rename(*box, away) < 0) {
        replay_error(mailbox_get_storage(*box), "INBOX cannot be put away", result);
    } else if (mailbox_delete(away) < 0) {
        replay_error(mailbox_get_storage(away), "what was INBOX cannot be deleted", result);
    } else {
        ok = TRUE;
    }
    mailbox_free(&away);
    mailbox_free(box);
    mail_index_alloc_cache_destroy_unrefed();
    *box = mailbox_alloc(ns->list, name, MAILBOX_FLAG_IGNORE_ACLS);
    return ok;
}

bool replay_inbox_renew(struct mailbox **box, struct replay_result *result)
{
    struct mailbox_status status;

    if (!is_maildir(*box))
        return put_away(box, result);
    if (mailbox_open(*box) < 0 || mailbox_sync(*box, MAILBOX_SYNC_FLAG_FULL_READ) < 0 || expunge_all(*box) < 0) {
        replay_error(mailbox_get_storage(*box), "INBOX cannot be emptied", result);
        return FALSE;
    }
    mailbox_get_open_status(*box, STATUS_MESSAGES, &status);
    if (status.messages > 0) {
        replay_set(result, REPLAY_TEMPORARY, "INBOX is not empty after all its messages were expunged");
        return FALSE;
    }
    if (forget(box) < 0) {
        replay_set(result, REPLAY_TEMPORARY, t_strdup_printf("INBOX cannot be made anew: %m"));
        return FALSE;
    }
    /* Opened once more, it gets an identity of its own, and the list of mailboxes learns that it is another. */
    if (mailbox_open(*box) < 0 || mailbox_sync(*box, MAILBOX_SYNC_FLAG_FULL_READ) < 0) {
        replay_error(mailbox_get_storage(*box), "INBOX cannot be opened anew", result);
        return FALSE;
    }
    return TRUE;
}

bool replay_inbox_needs_renewal(struct mailbox *box)
{
    return mailbox_is_any_inbox(box);
}
