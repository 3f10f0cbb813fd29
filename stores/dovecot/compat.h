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
 * lock, without a second look at the index: the log's own count. 0 = not known. */
static inline uint64_t compat_committed_modseq(struct mailbox *box)
{
    struct mail_transaction_log *log = box->index == NULL ? NULL : box->index->log;

    return log == NULL || log->head == NULL ? 0 : log->head->sync_highest_modseq;
}

static inline const char *compat_service_name(struct mail_user *user)
{
    return user->service == NULL ? "" : user->service;
}

#endif
