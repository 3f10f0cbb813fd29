/* Maildir's INBOX made anew: it is the account's root folder and cannot be deleted.
 *
 * Owns: emptying it and taking away the files that hold its identity, counters and log, so that the next operation
 * gives it the origin's. What can hurt: a user who has it open: Dovecot tells the session that UIDVALIDITY changed
 * and ends it, as after every such change; a replica has no users. Refuses: every other mailbox and format. */

#include "replay.h"

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

static int unlink_in(struct mailbox *box, enum mailbox_list_path_type type, const char *name,
                     struct replay_result *result)
{
    const char *folder;

    if (mailbox_get_path_to(box, type, &folder) <= 0)
        return 0;
    if (unlink(t_strconcat(folder, "/", name, NULL)) < 0 && errno != ENOENT) {
        replay_set(result, REPLAY_TEMPORARY, t_strdup_printf("`%s` of INBOX cannot be removed: %m", name));
        return -1;
    }
    return 0;
}

bool replay_inbox_renew(struct mailbox *box, struct replay_result *result)
{
    static const char *const index_files[] = { "dovecot.index", "dovecot.index.log", "dovecot.index.log.2",
                                               "dovecot.index.cache" };
    struct mailbox_status status;
    unsigned int i;

    if (mailbox_open(box) < 0 || mailbox_sync(box, MAILBOX_SYNC_FLAG_FULL_READ) < 0 || expunge_all(box) < 0) {
        replay_error(mailbox_get_storage(box), "INBOX cannot be emptied", result);
        return FALSE;
    }
    mailbox_get_open_status(box, STATUS_MESSAGES, &status);
    if (status.messages > 0) {
        replay_set(result, REPLAY_TEMPORARY, "INBOX is not empty after all its messages were expunged");
        return FALSE;
    }
    if (unlink_in(box, MAILBOX_LIST_PATH_TYPE_CONTROL, "dovecot-uidlist", result) < 0)
        return FALSE;
    for (i = 0; i < N_ELEMENTS(index_files); i++) {
        if (unlink_in(box, MAILBOX_LIST_PATH_TYPE_INDEX, index_files[i], result) < 0)
            return FALSE;
    }
    return TRUE;
}

bool replay_inbox_needs_renewal(struct mailbox *box)
{
    return mailbox_is_any_inbox(box) && strcmp(mailbox_get_storage(box)->name, "maildir") == 0;
}
