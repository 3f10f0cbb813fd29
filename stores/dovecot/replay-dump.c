/* The state of an account as operations, in the order of docs/formats.md ("Replay service", DUMP).
 *
 * Owns: reading. What can hurt: a large account: replies leave as they fill, and nothing is held for all messages.
 * A message that is expunged while it is read is left out; one whose body cannot be read goes without a BLOB_ID.
 * Refuses: changing anything a user sees: no \Seen, no \Recent taken away. */

#include "replay.h"

#include "istream.h"
#include "mail-namespace.h"
#include "mail-search-build.h"
#include "mailbox-attribute.h"

#include "op-encode.h"

struct dump {
    const struct replay_dump_request *request;
    struct replay_result *result;
    buffer_t *out;
    pool_t pool;
    bool failed;
};

static bool flush(struct dump *dump)
{
    if (dump->out->used > 0 && !dump->request->send(dump->request->context, dump->out)) {
        replay_set(dump->result, REPLAY_TEMPORARY, "the agent has gone");
        dump->failed = TRUE;
    }
    buffer_set_used_size(dump->out, 0);
    return !dump->failed;
}

/* Takes the operation's bytes and frees it. */
static bool put(struct dump *dump, struct op *op)
{
    size_t size;
    const unsigned char *bytes = op_bytes(op, &size);

    if (bytes == NULL) {
        replay_set(dump->result, REPLAY_REFUSED, "a mailbox, message or attribute passes a limit of the format");
        dump->failed = TRUE;
    } else {
        replay_put_u32(dump->out, (uint32_t)size);
        buffer_append(dump->out, bytes, size);
    }
    op_free(op);
    if (!dump->failed && dump->out->used >= REPLAY_DUMP_REPLY_BYTES)
        (void)flush(dump);
    return !dump->failed;
}

static bool storage_failed(struct dump *dump, struct mail_storage *storage, const char *what)
{
    replay_error(storage, what, dump->result);
    if (dump->result->status == REPLAY_NO_MAILBOX)
        return FALSE;
    dump->failed = TRUE;
    return TRUE;
}

static int name_cmp(const char *const *a, const char *const *b)
{
    return strcmp(*a, *b);
}

static bool user_key(const char *key)
{
    return strncmp(key, MAILBOX_ATTRIBUTE_PREFIX_DOVECOT_PVT, strlen(MAILBOX_ATTRIBUTE_PREFIX_DOVECOT_PVT)) != 0;
}

static void read_keys(struct dump *dump, struct mailbox *box, enum mail_attribute_type type, const char *prefix,
                      ARRAY_TYPE(const_string) *keys)
{
    struct mailbox_attribute_iter *iter = mailbox_attribute_iter_init(box, type, prefix);
    const char *key;

    while ((key = mailbox_attribute_iter_next(iter)) != NULL) {
        const char *copy = p_strdup(dump->pool, key);

        if (*prefix != '\0' || user_key(key))
            array_push_back(keys, &copy);
    }
    if (mailbox_attribute_iter_deinit(&iter) < 0)
        (void)storage_failed(dump, mailbox_get_storage(box), "attributes cannot be listed");
    array_sort(keys, name_cmp);
}

static void dump_attribute(struct dump *dump, struct mailbox *box, const guid_128_t guid,
                           enum mail_attribute_type type, const char *prefix, const char *key)
{
    struct mail_attribute_value value;
    struct op op;
    int ret = mailbox_attribute_get(box, type, t_strconcat(prefix, key, NULL), &value);

    if (ret < 0) {
        (void)storage_failed(dump, mailbox_get_storage(box), "attribute cannot be read");
        return;
    }
    /* What the configuration says is not the account's state. */
    if (ret == 0 || value.value == NULL || (value.flags & MAIL_ATTRIBUTE_VALUE_FLAG_READONLY) != 0)
        return;
    op_begin(&op, OP_ATTRIBUTE_SET);
    if (*prefix == '\0')
        op_put_guid(&op, OP_TAG_MAILBOX_GUID, guid);
    op_put_u32(&op, OP_TAG_ATTRIBUTE_PRIVATE, type == MAIL_ATTRIBUTE_TYPE_PRIVATE ? 1 : 0);
    op_put_text(&op, OP_TAG_ATTRIBUTE_KEY, key, OP_TEXT_BYTES_MAX);
    op_put_bytes(&op, OP_TAG_ATTRIBUTE_VALUE, value.value, strlen(value.value), OP_ATTRIBUTE_BYTES_MAX);
    (void)put(dump, &op);
}

static void dump_attributes(struct dump *dump, struct mailbox *box, const guid_128_t guid, const char *prefix)
{
    static const enum mail_attribute_type types[] = { MAIL_ATTRIBUTE_TYPE_PRIVATE, MAIL_ATTRIBUTE_TYPE_SHARED };
    unsigned int i;

    for (i = 0; i < N_ELEMENTS(types) && !dump->failed; i++) {
        ARRAY_TYPE(const_string) keys;
        const char *const *key;

        p_array_init(&keys, dump->pool, 8);
        read_keys(dump, box, types[i], prefix, &keys);
        array_foreach(&keys, key) {
            if (dump->failed)
                break;
            T_BEGIN {
                dump_attribute(dump, box, guid, types[i], prefix, *key);
            } T_END;
        }
    }
}

/* Sizes and dates of one message; FALSE when it has gone or cannot be read. */
static bool put_facts(struct op *op, struct mail *mail)
{
    const char *guid;
    uoff_t physical, virtual;
    time_t received, saved;

    if (mail_get_special(mail, MAIL_FETCH_GUID, &guid) < 0 || mail_get_physical_size(mail, &physical) < 0 ||
        mail_get_virtual_size(mail, &virtual) < 0 || mail_get_received_date(mail, &received) < 0)
        return FALSE;
    op_put_text(op, OP_TAG_MESSAGE_GUID, guid, OP_TEXT_BYTES_MAX);
    op_put_u64(op, OP_TAG_SIZE_PHYSICAL, physical);
    op_put_u64(op, OP_TAG_SIZE_VIRTUAL, virtual);
    op_put_u64(op, OP_TAG_RECEIVED_S, (uint64_t)(int64_t)received);
    if (mail_get_save_date(mail, &saved) > 0)
        op_put_u64(op, OP_TAG_SAVED_S, (uint64_t)(int64_t)saved);
    return TRUE;
}

static uint32_t op_flags(enum mail_flags flags)
{
    uint32_t out = 0;

    if ((flags & MAIL_ANSWERED) != 0)
        out |= OP_FLAG_ANSWERED;
    if ((flags & MAIL_FLAGGED) != 0)
        out |= OP_FLAG_FLAGGED;
    if ((flags & MAIL_DELETED) != 0)
        out |= OP_FLAG_DELETED;
    if ((flags & MAIL_SEEN) != 0)
        out |= OP_FLAG_SEEN;
    if ((flags & MAIL_DRAFT) != 0)
        out |= OP_FLAG_DRAFT;
    return out;
}

static void put_body(struct dump *dump, struct op *op, struct mail *mail)
{
    struct istream *input;
    unsigned char id[OP_BLOB_ID_BYTES];
    const char *error = "message cannot be opened";

    if (mail_get_stream(mail, NULL, NULL, &input) == 0 &&
        replay_body_spool(dump->request->spool, input, id, &error) == 0)
        op_put_bytes(op, OP_TAG_BLOB_ID, id, sizeof(id), sizeof(id));
    else
        i_warning("body of UID %u in %s of %s: %s", mail->uid, mailbox_get_vname(mail->box),
                  dump->request->user->name, error);
}

static void dump_message(struct dump *dump, struct mail *mail, const guid_128_t guid, uint32_t uid_validity)
{
    const char *const *keyword;
    struct op op;

    op_begin(&op, OP_MESSAGE_SAVED);
    op_put_guid(&op, OP_TAG_MAILBOX_GUID, guid);
    op_put_text(&op, OP_TAG_MAILBOX_NAME, mailbox_get_vname(mail->box), OP_NAME_BYTES_MAX);
    op_put_u32(&op, OP_TAG_UID_VALIDITY, uid_validity);
    op_put_u32(&op, OP_TAG_UID, mail->uid);
    if (!put_facts(&op, mail)) {
        op_free(&op);
        /* Expunged meanwhile: its expunge is another operation's business. */
        if (!mail->expunged)
            (void)storage_failed(dump, mailbox_get_storage(mail->box), "message cannot be read");
        return;
    }
    op_put_u32(&op, OP_TAG_FLAGS, op_flags(mail_get_flags(mail)));
    for (keyword = mail_get_keywords(mail); *keyword != NULL; keyword++)
        op_put_keyword(&op, *keyword);
    op_put_u64(&op, OP_TAG_MODSEQ, mail_get_modseq(mail));
    if (dump->request->spool != NULL)
        put_body(dump, &op, mail);
    (void)put(dump, &op);
}

static void dump_messages(struct dump *dump, struct mailbox *box, const guid_128_t guid, uint32_t uid_validity)
{
    struct mailbox_transaction_context *t;
    struct mail_search_context *search;
    struct mail_search_args *args;
    struct mail *mail;

    t = mailbox_transaction_begin(box, MAILBOX_TRANSACTION_FLAG_NO_NOTIFY, "understudy dump");
    args = mail_search_build_init();
    mail_search_build_add_all(args);
    search = mailbox_search_init(t, args, NULL,
                                 MAIL_FETCH_FLAGS | MAIL_FETCH_GUID | MAIL_FETCH_RECEIVED_DATE |
                                     MAIL_FETCH_SAVE_DATE | MAIL_FETCH_PHYSICAL_SIZE | MAIL_FETCH_VIRTUAL_SIZE,
                                 NULL);
    mail_search_args_unref(&args);
    while (!dump->failed && mailbox_search_next(search, &mail)) T_BEGIN {
        dump_message(dump, mail, guid, uid_validity);
    } T_END;
    if (mailbox_search_deinit(&search) < 0 && !dump->failed)
        (void)storage_failed(dump, mailbox_get_storage(box), "messages cannot be listed");
    /* Commits what was learnt about sizes to Dovecot's cache, so that the next dump reads no files. */
    (void)mailbox_transaction_commit(&t);
}

static void put_mailbox(struct dump *dump, struct mailbox *box, const guid_128_t guid,
                        const struct mailbox_status *status, bool counters)
{
    struct op op;

    op_begin(&op, OP_MAILBOX_UPDATED);
    op_put_guid(&op, OP_TAG_MAILBOX_GUID, guid);
    op_put_text(&op, OP_TAG_MAILBOX_NAME, mailbox_get_vname(box), OP_NAME_BYTES_MAX);
    op_put_u32(&op, OP_TAG_UID_VALIDITY, status->uidvalidity);
    if (counters) {
        op_put_u32(&op, OP_TAG_NEXT_UID, status->uidnext);
        op_put_u64(&op, OP_TAG_HIGHEST_MODSEQ, status->highest_modseq);
    }
    (void)put(dump, &op);
}

static void put_directory(struct dump *dump, const char *name)
{
    struct op op;

    if (!guid_128_is_empty(dump->request->only))
        return;
    op_begin(&op, OP_MAILBOX_CREATED);
    op_put_text(&op, OP_TAG_MAILBOX_NAME, name, OP_NAME_BYTES_MAX);
    op_put_u32(&op, OP_TAG_DIRECTORY, 1);
    (void)put(dump, &op);
}

static void dump_open(struct dump *dump, struct mailbox *box)
{
    const struct replay_dump_request *request = dump->request;
    struct mailbox_metadata metadata;
    struct mailbox_status status;

    if (mailbox_open(box) < 0 || mailbox_get_metadata(box, MAILBOX_METADATA_GUID, &metadata) < 0 ||
        mailbox_sync(box, 0) < 0) {
        /* The list goes on naming a mailbox that was deleted while others were below it. */
        if (!storage_failed(dump, mailbox_get_storage(box), "mailbox cannot be opened"))
            put_directory(dump, mailbox_get_vname(box));
        return;
    }
    if (!guid_128_is_empty(request->only) && !guid_128_equals(request->only, metadata.guid))
        return;
    mailbox_get_open_status(box, STATUS_UIDVALIDITY | STATUS_UIDNEXT | STATUS_HIGHESTMODSEQ, &status);
    put_mailbox(dump, box, metadata.guid, &status, FALSE);
    if (!dump->failed)
        dump_attributes(dump, box, metadata.guid, "");
    if (!dump->failed && (request->flags & REPLAY_DUMP_MESSAGES) != 0)
        dump_messages(dump, box, metadata.guid, status.uidvalidity);
    /* The counters come last: a next UID that is raised first would refuse the messages. */
    if (!dump->failed)
        put_mailbox(dump, box, metadata.guid, &status, TRUE);
}

static void dump_box(struct dump *dump, const struct replay_listed *listed)
{
    struct mailbox *box;

    if (listed->directory) {
        put_directory(dump, listed->name);
        return;
    }
    box = mailbox_alloc(listed->ns->list, listed->name, MAILBOX_FLAG_IGNORE_ACLS);
    dump_open(dump, box);
    mailbox_free(&box);
}

static void dump_account_wide(struct dump *dump)
{
    struct mail_namespace *ns = mail_namespace_find_inbox(dump->request->user->mail_user->namespaces);
    ARRAY_TYPE(const_string) names;
    const char *const *name;
    enum mailbox_existence exists;
    struct mailbox *box;
    struct op op;

    p_array_init(&names, dump->pool, 32);
    dump->failed = !replay_list_subscribed(dump->request->user, dump->pool, &names, dump->result);
    array_foreach(&names, name) {
        if (dump->failed)
            return;
        op_begin(&op, OP_SUBSCRIBED);
        op_put_text(&op, OP_TAG_MAILBOX_NAME, *name, OP_NAME_BYTES_MAX);
        (void)put(dump, &op);
    }
    if (ns == NULL || dump->failed)
        return;
    box = mailbox_alloc(ns->list, "INBOX", MAILBOX_FLAG_IGNORE_ACLS | MAILBOX_FLAG_ATTRIBUTE_SESSION);
    /* An INBOX that Dovecot would make by being asked has no attributes. */
    if (mailbox_exists(box, FALSE, &exists) == 0 && exists == MAILBOX_EXISTENCE_SELECT && mailbox_open(box) == 0)
        dump_attributes(dump, box, uchar_empty_ptr, MAILBOX_ATTRIBUTE_PREFIX_DOVECOT_PVT_SERVER);
    mailbox_free(&box);
}

void replay_dump(const struct replay_dump_request *request, struct replay_result *result_r)
{
    struct dump dump;
    ARRAY_TYPE(replay_listed) boxes;
    const struct replay_listed *box;

    i_zero(&dump);
    dump.request = request;
    dump.result = result_r;
    dump.pool = pool_alloconly_create("replay dump", 16384);
    dump.out = buffer_create_dynamic(default_pool, REPLAY_DUMP_REPLY_BYTES + 4096);
    replay_set(result_r, REPLAY_APPLIED, "");

    p_array_init(&boxes, dump.pool, 32);
    dump.failed = !replay_list_mailboxes(request->user, dump.pool, &boxes, result_r);
    array_foreach(&boxes, box) {
        if (dump.failed)
            break;
        T_BEGIN {
            dump_box(&dump, box);
            result_r->text = p_strdup(dump.pool, result_r->text);
        } T_END;
    }
    if (!dump.failed && guid_128_is_empty(request->only))
        dump_account_wide(&dump);
    if (!dump.failed && replay_storage_was_rebuilt(request->user)) {
        replay_set(result_r, REPLAY_TEMPORARY, "the storage was made anew from its files while it was read");
        dump.failed = TRUE;
    }
    if (!dump.failed && flush(&dump))
        replay_set(result_r, REPLAY_APPLIED, "");
    result_r->text = t_strdup(result_r->text);
    buffer_free(&dump.out);
    pool_unref(&dump.pool);
}
