/* What differs between versions of Dovecot, in one place.
 *
 * Owns: every call and field that is not the same in 2.3 and 2.4. Written for 2.3.19 and later of 2.3; the 2.4
 * branch of a helper is added here, not in the files that use it.
 * What can hurt: Dovecot promises no stable interface; the plugin is built once per DOVECOT_ABI_VERSION, and
 * Dovecot refuses to load one of another.
 * Refuses: behaviour; a helper is a call or a field. */
#ifndef UNDERSTUDY_COMPAT_H
#define UNDERSTUDY_COMPAT_H

#include "lib.h"
#include "array.h"
#include "module-context.h"
#include "mail-user.h"
#include "mail-storage-private.h"
#include "mail-storage-hooks.h"
#include "mailbox-list-private.h"
#include "mail-index-private.h"
#include "mail-index-modseq.h"
#include "mail-transaction-log-private.h"
#include "notify-plugin.h"
#include "index-storage.h"
#include "dbox-storage.h"
#include "sdbox-storage.h"
#include "mdbox-storage.h"

#include <sys/stat.h>

/* A setting of `plugin { }`; NULL when it is not set. 2.4 has no `plugin` block: settings_get there. */
static inline const char *compat_setting(struct mail_user *user, const char *key)
{
    return mail_user_plugin_getenv(user, key);
}

static inline void compat_notify_unregister(struct notify_context **ctx)
{
    if (*ctx != NULL)
        notify_unregister(*ctx);
    *ctx = NULL;
}

/* Highest modseq of the mailbox right after this process committed a transaction and while it still holds the
 * lock, without a second look at the index: the log's own count. 0 = not known. It is the modseq of a message that
 * the commit added, or, where several were added and one has keywords, at most a few more: keywords are log
 * records of their own. Nothing that is published later has a lower one. */
static inline uint64_t compat_committed_modseq(struct mailbox *box)
{
    struct mail_transaction_log *log = box->index == NULL ? NULL : box->index->log;

    return log == NULL || log->head == NULL ? 0 : log->head->sync_highest_modseq;
}

/* GUID of an sdbox or mdbox mailbox as its index has it. A session that opens a mailbox while another one creates it
 * may have chosen a GUID of its own, which it keeps in memory and `mailbox_get_metadata` tells, but the index does not
 * have in the end. */
static inline bool compat_dbox_guid(struct mailbox *box, guid_128_t guid_r)
{
    static const struct {
        const char *storage, *extension;
        size_t at;
    } kinds[] = {
        { "sdbox", "dbox-hdr", offsetof(struct sdbox_index_header, mailbox_guid) },
        { "mdbox", "mdbox-hdr", offsetof(struct mdbox_index_header, mailbox_guid) },
    };
    struct mail_index_view *view;
    const void *data;
    size_t bytes;
    uint32_t ext_id;
    unsigned int i;

    guid_128_empty(guid_r);
    for (i = 0; i < N_ELEMENTS(kinds); i++) {
        if (box->index == NULL || strcmp(box->storage->name, kinds[i].storage) != 0 ||
            !mail_index_ext_lookup(box->index, kinds[i].extension, &ext_id))
            continue;
        view = mail_index_view_open(box->index);
        mail_index_get_header_ext(view, ext_id, &data, &bytes);
        if (data != NULL && bytes >= kinds[i].at + GUID_128_SIZE)
            memcpy(guid_r, CONST_PTR_OFFSET(data, kinds[i].at), GUID_128_SIZE);
        mail_index_view_close(&view);
    }
    return !guid_128_is_empty(guid_r);
}

/* Whether the mailbox's folder has been renamed or deleted since it was opened: its index log is not at its path any
 * more, nor is it the one before (a log is rotated by renaming it). */
static inline bool compat_moved_away(struct mailbox *box)
{
    struct mail_transaction_log *log = box->index == NULL ? NULL : box->index->log;
    struct stat st;

    if (log == NULL || log->head == NULL || MAIL_TRANSACTION_LOG_FILE_IN_MEMORY(log->head))
        return FALSE;
    if (stat(log->head->filepath, &st) == 0 && st.st_ino == log->head->st_ino)
        return FALSE;
    return stat(t_strconcat(log->head->filepath, ".2", NULL), &st) < 0 || st.st_ino != log->head->st_ino;
}

/* Whether looking at a message may end the process: an sdbox asserts that the file of a message that is being saved is
 * there when it is read back. */
static inline bool compat_unreadable(struct mail *mail)
{
    return mail->saving && strcmp(mail->box->storage->name, "sdbox") == 0 && compat_moved_away(mail->box);
}

/* Before sdbox and mdbox end a save. When the folder was renamed or deleted meanwhile, 2.3.19 cannot make it durable
 * and says so in the name of the message that is being saved, of which there is none any more: the session ends with
 * signal 11 (also without any plugin). `stand_in` is only named in that error, and has to live until the save has ended. */
static inline void compat_message_for_error(struct mail_save_context *ctx, struct mail *stand_in)
{
    struct mailbox *box = ctx->transaction->box;

    if (ctx->dest_mail != NULL || strcmp(box->storage->name, "maildir") == 0)
        return;
    i_zero(stand_in);
    stand_in->box = box;
    stand_in->saving = TRUE;
    ctx->dest_mail = stand_in;
}

static inline const char *compat_service_name(struct mail_user *user)
{
    return user->service == NULL ? "" : user->service;
}

#endif
