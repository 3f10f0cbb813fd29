/* METADATA: attributes of mailboxes and of the server, set or removed.
 *
 * Owns: the override of `attribute_set` and the operations of a transaction's attributes.
 * What can hurt: Dovecot keeps server-wide attributes in INBOX under a private prefix, which is taken off here
 * and put on again by the replay. A value given as a stream is read once, here, and passed on as text.
 * Refuses: attributes that each user of a shared mailbox has for himself: they belong to no mailbox of the
 * session's own account (README, "What is not replicated"). */
#include "capture.h"

int us_attribute_set(struct mailbox_transaction_context *t, enum mail_attribute_type type_flags, const char *key,
                     const struct mail_attribute_value *value)
{
    struct us_mailbox *mbox = US_MAILBOX_CONTEXT(t->box);
    struct us_txn *txn = US_TXN_CONTEXT(t);
    bool private = (type_flags & MAIL_ATTRIBUTE_TYPE_MASK) == MAIL_ATTRIBUTE_TYPE_PRIVATE;
    struct mail_attribute_value as_text = *value;
    struct us_attribute *row;

    if (txn == NULL || (private && mbox->session_user != NULL))
        return mbox->module_ctx.super.attribute_set(t, type_flags, key, value);
    if (value->value_stream != NULL) {
        if (mailbox_attribute_value_to_string(t->box->storage, value, &as_text.value) < 0)
            return -1;
        as_text.value_stream = NULL;
    }
    if (mbox->module_ctx.super.attribute_set(t, type_flags, key, &as_text) < 0)
        return -1;
    row = array_append_space(&txn->attributes);
    row->private = private;
    row->key = p_strdup(txn->pool, key);
    row->value = p_strdup(txn->pool, as_text.value);
    return 0;
}

void us_attributes_publish(struct us_txn *txn, struct us_mailbox *mbox, bool last)
{
    static const char server_prefix[] = MAILBOX_ATTRIBUTE_PREFIX_DOVECOT_PVT_SERVER;
    const struct us_attribute *rows;
    unsigned int i, count;
    struct op op;

    rows = array_get(&txn->attributes, &count);
    for (i = 0; i < count; i++) {
        bool server = strncmp(rows[i].key, server_prefix, strlen(server_prefix)) == 0;
        bool end = last && i + 1 == count;

        op_begin(&op, OP_ATTRIBUTE_SET);
        if (!server)
            op_put_guid(&op, OP_TAG_MAILBOX_GUID, mbox->guid);
        op_put_u32(&op, OP_TAG_ATTRIBUTE_PRIVATE, rows[i].private ? 1 : 0);
        op_put_text(&op, OP_TAG_ATTRIBUTE_KEY, rows[i].key + (server ? strlen(server_prefix) : 0), OP_TEXT_BYTES_MAX);
        /* An empty value is a value; none at all means removed. */
        if (rows[i].value != NULL)
            op_put_bytes(&op, OP_TAG_ATTRIBUTE_VALUE, rows[i].value, strlen(rows[i].value), OP_ATTRIBUTE_BYTES_MAX);
        us_put_session(&op, txn->box, mbox);
        us_publish(mbox->account, &op, OP_ATTRIBUTE_SET, end ? &txn->intent : NULL, end ? &txn->wait : NULL);
        op_free(&op);
    }
}
