/* METADATA of mailboxes and of the server, set to the origin's value.
 *
 * Owns: attribute-set. What can hurt: keys are paths in a dictionary: one that Dovecot would take apart wrongly is
 * refused. Refuses: values with NUL bytes (Dovecot's dictionaries hold strings), attributes that the configuration
 * owns. Server-wide ones live at INBOX under a prefix of Dovecot's; the operation does not carry the prefix. */

#include "replay.h"

#include "mail-namespace.h"
#include "mailbox-attribute.h"

static bool key_ok(const char *key)
{
    size_t len = strlen(key);

    return len > 0 && key[0] != '/' && key[len - 1] != '/' && strstr(key, "//") == NULL && strchr(key, '*') == NULL &&
           strchr(key, '%') == NULL && strstr(key, "..") == NULL;
}

static bool value_now(struct mailbox *box, enum mail_attribute_type type, const char *key, const char **value_r,
                      struct replay_result *result)
{
    struct mail_attribute_value value;
    int ret = mailbox_attribute_get(box, type, key, &value);

    if (ret < 0) {
        replay_error(mailbox_get_storage(box), "attribute cannot be read", result);
        return FALSE;
    }
    *value_r = ret == 0 ? NULL : value.value;
    return TRUE;
}

static void set_value(struct mailbox *box, enum mail_attribute_type type, const char *key, const char *wanted,
                      struct replay_result *result)
{
    struct mailbox_transaction_context *t;
    struct mail_attribute_value value;
    const char *now;
    int ret;

    if (!value_now(box, type, key, &now, result))
        return;
    if (null_strcmp(now, wanted) == 0) {
        replay_set(result, REPLAY_ALREADY, "");
        return;
    }
    i_zero(&value);
    value.value = wanted;
    t = mailbox_transaction_begin(box, MAILBOX_TRANSACTION_FLAG_SYNC | MAILBOX_TRANSACTION_FLAG_NO_NOTIFY,
                                  "understudy replay");
    ret = mailbox_attribute_set(t, type, key, &value);
    if (ret < 0) {
        replay_error(mailbox_get_storage(box), "attribute cannot be set", result);
        mailbox_transaction_rollback(&t);
    } else if (mailbox_transaction_commit(&t) < 0) {
        replay_error(mailbox_get_storage(box), "attribute cannot be set", result);
    } else {
        replay_set(result, REPLAY_APPLIED, "");
    }
}

void replay_apply_attribute(struct replay_apply *ap, const struct us_op *op, struct replay_result *result)
{
    enum mail_attribute_type type = op->private ? MAIL_ATTRIBUTE_TYPE_PRIVATE : MAIL_ATTRIBUTE_TYPE_SHARED;
    const char *key = op->key, *wanted = NULL;
    struct mail_namespace *ns;
    struct mailbox *box;

    if (!key_ok(key)) {
        replay_set(result, REPLAY_REFUSED, "attribute key is not a path");
        return;
    }
    if (op->has_value) {
        if (memchr(op->value, '\0', op->value_bytes) != NULL) {
            replay_set(result, REPLAY_REFUSED, "attribute value holds a NUL byte");
            return;
        }
        wanted = t_strndup(op->value, op->value_bytes);
    }
    if (op->has_mailbox) {
        if (replay_box_open(ap, &ap->current, op->mailbox, 0, result))
            set_value(ap->current.box, type, key, wanted, result);
        return;
    }
    ns = mail_namespace_find_inbox(ap->user->mail_user->namespaces);
    if (ns == NULL) {
        replay_set(result, REPLAY_REFUSED, "account has no INBOX");
        return;
    }
    box = mailbox_alloc(ns->list, "INBOX", MAILBOX_FLAG_IGNORE_ACLS | MAILBOX_FLAG_ATTRIBUTE_SESSION);
    if (mailbox_open(box) < 0)
        replay_error(mailbox_get_storage(box), "INBOX cannot be opened", result);
    else
        set_value(box, type, t_strconcat(MAILBOX_ATTRIBUTE_PREFIX_DOVECOT_PVT_SERVER, key, NULL), wanted, result);
    mailbox_free(&box);
}
