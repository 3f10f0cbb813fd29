/* Changes of mailboxes themselves: created, deleted, renamed, updated, subscribed; and their identity.
 *
 * Owns: the plugin's state of a mailbox and the overrides of these commands.
 * What can hurt: Dovecot calls create, delete and rename under the lock of the mailbox list. Operations are
 * published there, so that their order is right, but the wait for the acknowledgement is put off to the next
 * call on the mailbox without a lock, at the latest its `free`; IMAP holds the OK back until then, because a
 * command's output is corked. And asking a Maildir for its status inside create changes its UIDVALIDITY, so
 * that one is told later, by the first sync.
 * Refuses: storages other than Maildir, sdbox and mdbox; public namespaces, which have no owner. */
#include "capture.h"

#include "mailbox-uidvalidity.h"

struct us_storage_module us_storage_module = MODULE_CONTEXT_INIT(&mail_storage_module_register);

static bool us_is_maildir(const struct mailbox *box)
{
    return strcmp(box->storage->name, "maildir") == 0;
}

void us_mailbox_guid_again(struct mailbox *box, struct us_mailbox *mbox)
{
    guid_128_t guid;

    if (box->opened && compat_dbox_guid(box, guid))
        guid_128_copy(mbox->guid, guid);
}

bool us_mailbox_guid(struct mailbox *box, struct us_mailbox *mbox)
{
    struct mailbox_metadata metadata;

    us_mailbox_guid_again(box, mbox);
    if (!guid_128_is_empty(mbox->guid))
        return TRUE;
    mail_storage_last_error_push(box->storage);
    if (mailbox_get_metadata(box, MAILBOX_METADATA_GUID, &metadata) == 0)
        guid_128_copy(mbox->guid, metadata.guid);
    mail_storage_last_error_pop(box->storage);
    return !guid_128_is_empty(mbox->guid);
}

/* As us_mailbox_guid(), but asks the mailbox itself: the list of mailboxes goes on telling the GUID of one that was
 * deleted while it had children, and what is left of that is a directory. */
static void us_mailbox_guid_now(struct mailbox *box, struct us_mailbox *mbox)
{
    struct mailbox *again = mailbox_alloc(box->list, box->vname, MAILBOX_FLAG_READONLY | MAILBOX_FLAG_IGNORE_ACLS);
    enum mail_error error = MAIL_ERROR_NONE;

    mail_storage_last_error_push(box->storage);
    if (mailbox_open(again) < 0)
        (void)mailbox_get_last_error(again, &error);
    mailbox_free(&again);
    mail_storage_last_error_pop(box->storage);
    if (error == MAIL_ERROR_NOTFOUND)
        guid_128_empty(mbox->guid);
    else
        (void)us_mailbox_guid(box, mbox);
}

void us_mailbox_wait_deferred(struct us_mailbox *mbox)
{
    const char *why;

    /* The command has already succeeded here: a refusal can only be logged. */
    if (mbox->deferred.pending && !us_wait(mbox->account, &mbox->deferred, &why))
        i_warning("understudy: change of mailbox `%s` of `%s`: %s", mbox->name, us_account_name(mbox->account), why);
}

void us_put_session(struct op *op, struct mailbox *box, const struct us_mailbox *mbox)
{
    if (mbox->session_user == NULL)
        return;
    op_put_text(op, OP_TAG_SESSION_USER, mbox->session_user, OP_TEXT_BYTES_MAX);
    op_put_text(op, OP_TAG_SERVICE, compat_service_name(box->storage->user), OP_TEXT_BYTES_MAX);
}

/* Before a change: false if it is refused. `capture` says whether the rest is to be done. */
static bool us_change_begin(struct mailbox *box, struct us_mailbox *mbox, struct us_account *account,
                            struct us_intent *intent, bool *capture_r)
{
    static const guid_128_t no_guid;
    const char *why;

    i_zero(intent);
    *capture_r = FALSE;
    if (account == NULL)
        return TRUE;
    switch (us_account_admit(account, &why)) {
    case US_ADMIT_SKIP:
        return TRUE;
    case US_ADMIT_CAPTURE:
        if (us_intent_begin(account, account == mbox->account ? mbox->guid : no_guid, intent, &why)) {
            *capture_r = TRUE;
            return TRUE;
        }
        break;
    case US_ADMIT_REFUSE:
        break;
    }
    us_set_refused(box, why);
    return FALSE;
}

/* After a change of the list that failed. What the client is told as its own mistake was refused before anything was
 * done; any other failure may have come half way. */
static void us_change_failed(struct mailbox *box, struct us_account *account, struct us_intent *intent)
{
    switch (mailbox_get_last_mail_error(box)) {
    case MAIL_ERROR_NOTFOUND:
    case MAIL_ERROR_EXISTS:
    case MAIL_ERROR_PARAMS:
    case MAIL_ERROR_PERM:
    case MAIL_ERROR_NOTPOSSIBLE:
        break;
    default:
        us_gap(account, "a change of a mailbox failed, perhaps half way");
        break;
    }
    us_intent_end(account, intent);
}

static int us_create_box(struct mailbox *box, const struct mailbox_update *update, bool directory)
{
    struct us_mailbox *mbox = US_MAILBOX_CONTEXT(box);
    struct mailbox_update filled;
    struct us_intent intent;
    struct op op;
    bool capture;
    int ret;

    if (!us_change_begin(box, mbox, mbox->account, &intent, &capture))
        return -1;
    if (!capture)
        return mbox->module_ctx.super.create_box(box, update, directory);

    /* With dbox the identity can be chosen here. Never with Maildir: there the loser of a concurrent CREATE
       applies its update to the winner's mailbox. */
    if (!us_is_maildir(box) && !directory) {
        i_zero(&filled);
        if (update != NULL)
            filled = *update;
        if (guid_128_is_empty(filled.mailbox_guid))
            guid_128_generate(filled.mailbox_guid);
        if (filled.uid_validity == 0) {
            const char *root = mailbox_list_get_root_forced(box->list, MAILBOX_LIST_PATH_TYPE_CONTROL);
            filled.uid_validity =
                mailbox_uidvalidity_next(box->list, t_strconcat(root, "/dovecot-uidvalidity", NULL));
        }
        update = &filled;
    }
    ret = mbox->module_ctx.super.create_box(box, update, directory);
    if (ret < 0) {
        us_change_failed(box, mbox->account, &intent);
        return ret;
    }
    guid_128_empty(mbox->guid);
    if (!directory || us_is_maildir(box))
        (void)us_mailbox_guid(box, mbox);

    op_begin(&op, OP_MAILBOX_CREATED);
    op_put_guid(&op, OP_TAG_MAILBOX_GUID, mbox->guid);
    op_put_text(&op, OP_TAG_MAILBOX_NAME, mbox->name, OP_NAME_BYTES_MAX);
    if (guid_128_is_empty(mbox->guid))
        op_put_u32(&op, OP_TAG_DIRECTORY, 1);
    else if (update != NULL && !us_is_maildir(box))
        op_put_u32(&op, OP_TAG_UID_VALIDITY, update->uid_validity);
    us_put_session(&op, box, mbox);
    us_publish(mbox->account, &op, OP_MAILBOX_CREATED, &intent, &mbox->deferred);
    op_free(&op);
    return ret;
}

static int us_update_box(struct mailbox *box, const struct mailbox_update *update)
{
    struct us_mailbox *mbox = US_MAILBOX_CONTEXT(box);
    struct us_intent intent;
    struct us_wait wait = { .pending = false };
    const char *why;
    struct op op;
    bool capture;
    int ret;

    (void)us_mailbox_guid(box, mbox);
    if (!us_change_begin(box, mbox, mbox->account, &intent, &capture))
        return -1;
    ret = mbox->module_ctx.super.update_box(box, update);
    if (!capture)
        return ret;
    if (ret < 0) {
        /* Part of it may have been done. */
        us_gap(mbox->account, "a mailbox update failed half way");
        us_intent_end(mbox->account, &intent);
        return ret;
    }
    if (!guid_128_is_empty(update->mailbox_guid))
        guid_128_copy(mbox->guid, update->mailbox_guid);
    if (guid_128_is_empty(mbox->guid)) {
        us_gap(mbox->account, "an updated mailbox has no GUID");
        us_intent_end(mbox->account, &intent);
        return ret;
    }
    op_begin(&op, OP_MAILBOX_UPDATED);
    op_put_guid(&op, OP_TAG_MAILBOX_GUID, mbox->guid);
    op_put_text(&op, OP_TAG_MAILBOX_NAME, mbox->name, OP_NAME_BYTES_MAX);
    op_put_u32(&op, OP_TAG_UID_VALIDITY, update->uid_validity);
    op_put_u32(&op, OP_TAG_NEXT_UID, update->min_next_uid);
    op_put_u64(&op, OP_TAG_HIGHEST_MODSEQ, update->min_highest_modseq);
    us_put_session(&op, box, mbox);
    us_publish(mbox->account, &op, OP_MAILBOX_UPDATED, &intent, &wait);
    op_free(&op);
    if (!us_wait(mbox->account, &wait, &why)) {
        us_set_refused(box, why);
        return -1;
    }
    return ret;
}

static int us_delete_box(struct mailbox *box)
{
    struct us_mailbox *mbox = US_MAILBOX_CONTEXT(box);
    static const guid_128_t zeros;
    struct us_intent intent;
    struct op op;
    bool capture, directories;
    int ret;

    if (mbox->account != NULL)
        us_mailbox_guid_now(box, mbox); /* only before: afterwards it is gone */
    if (!us_change_begin(box, mbox, mbox->account, &intent, &capture))
        return -1;
    if (mbox->account != NULL && !us_same_as_named(box, mbox->guid)) {
        /* Renamed or deleted since Dovecot opened it: going on would harm two mailboxes. */
        mail_storage_set_error(box->storage, MAIL_ERROR_NOTFOUND, T_MAIL_ERR_MAILBOX_NOT_FOUND(box->vname));
        if (capture)
            us_intent_end(mbox->account, &intent);
        return -1;
    }
    ret = mbox->module_ctx.super.delete_box(box);
    if (!capture)
        return ret;
    if (ret < 0) {
        us_change_failed(box, mbox->account, &intent);
        return ret;
    }
    directories = us_has_directories(box, mbox);
    op_begin(&op, OP_MAILBOX_DELETED);
    if (guid_128_is_empty(mbox->guid)) /* a directory has none */
        op_put_bytes(&op, OP_TAG_MAILBOX_GUID, zeros, sizeof(zeros), sizeof(zeros));
    else
        op_put_guid(&op, OP_TAG_MAILBOX_GUID, mbox->guid);
    op_put_text(&op, OP_TAG_MAILBOX_NAME, mbox->name, OP_NAME_BYTES_MAX);
    us_put_session(&op, box, mbox);
    us_publish(mbox->account, &op, OP_MAILBOX_DELETED, directories ? NULL : &intent, &mbox->deferred);
    op_free(&op);
    if (directories) {
        us_directories_publish(box, mbox);
        us_intent_end(mbox->account, &intent);
    }
    guid_128_empty(mbox->guid);
    mbox->identity_sent = FALSE;
    return ret;
}

static int us_rename_box(struct mailbox *src, struct mailbox *dest)
{
    struct us_mailbox *from = US_MAILBOX_CONTEXT(src), *to = US_MAILBOX_CONTEXT(dest);
    struct us_intent intent;
    struct op op;
    bool capture, directories;
    int ret;

    if (from->account != NULL)
        us_mailbox_guid_now(src, from);
    if (!us_change_begin(src, from, from->account, &intent, &capture))
        return -1;
    ret = from->module_ctx.super.rename_box(src, dest);
    if (!capture)
        return ret;
    if (ret < 0) {
        /* Folders above the new name are made first, and stay (seen with sdbox: RENAME of what is not there). */
        if (to != NULL && to->account == from->account && us_has_directories(dest, to))
            us_directories_publish(dest, to);
        /* Also what failed half way may have moved the mailbox itself. */
        if (!us_is_maildir(src) || guid_128_is_empty(from->guid) || !us_stands_at(dest, from->guid)) {
            us_change_failed(src, from->account, &intent);
            return ret;
        }
    }
    directories = us_has_directories(src, from);
    op_begin(&op, OP_MAILBOX_RENAMED);
    op_put_guid(&op, OP_TAG_MAILBOX_GUID, from->guid);
    op_put_text(&op, OP_TAG_OLD_NAME, from->name, OP_NAME_BYTES_MAX);
    op_put_text(&op, OP_TAG_MAILBOX_NAME, to == NULL ? dest->vname : to->name, OP_NAME_BYTES_MAX);
    us_put_session(&op, src, from);
    us_publish(from->account, &op, OP_MAILBOX_RENAMED, NULL, &from->deferred);
    op_free(&op);
    if (us_is_maildir(src) && to != NULL && to->account == from->account) {
        us_below_publish(dest, from, from->name);
        us_below_publish(src, from, to->name);
    }
    if (directories)
        us_directories_publish(src, from);
    us_intent_end(from->account, &intent);
    if (to != NULL)
        guid_128_empty(to->guid);
    return ret;
}

/* A subscription is stored in the subscriptions of the namespace that keeps them: for a shared mailbox that is
 * mostly the session's own account, and the name is the one that this user sees. */
static int us_set_subscribed(struct mailbox *box, bool set)
{
    struct us_mailbox *mbox = US_MAILBOX_CONTEXT(box);
    struct us_account *account = mbox->account;
    const char *name = mbox->name, *why;
    struct us_wait wait = { .pending = false };
    struct us_intent intent;
    struct op op;
    bool capture;
    int ret;

    if ((box->list->ns->flags & NAMESPACE_FLAG_SUBSCRIPTIONS) == 0 &&
        box->list->ns->type != MAIL_NAMESPACE_TYPE_PRIVATE) {
        account = mbox->user->own;
        name = box->vname;
    }
    if (!us_change_begin(box, mbox, account, &intent, &capture))
        return -1;
    ret = mbox->module_ctx.super.set_subscribed(box, set);
    if (!capture)
        return ret;
    if (ret < 0) {
        us_intent_end(account, &intent);
        return ret;
    }
    op_begin(&op, set ? OP_SUBSCRIBED : OP_UNSUBSCRIBED);
    op_put_text(&op, OP_TAG_MAILBOX_NAME, name, OP_NAME_BYTES_MAX);
    if (account == mbox->account)
        us_put_session(&op, box, mbox);
    us_publish(account, &op, set ? OP_SUBSCRIBED : OP_UNSUBSCRIBED, &intent, &wait);
    op_free(&op);
    if (!us_wait(account, &wait, &why)) {
        us_set_refused(box, why);
        return -1;
    }
    return ret;
}

/* Tells the identity of a mailbox that nobody has put a message into: no other operation would carry it. A Maildir has
 * no UIDVALIDITY when it is created; and a session that opens an sdbox or mdbox while another one creates it may give
 * it a UIDVALIDITY of its own after that has been told. */
static int us_sync_deinit(struct mailbox_sync_context *ctx, struct mailbox_sync_status *status_r)
{
    struct mailbox *box = ctx->box;
    struct us_mailbox *mbox = US_MAILBOX_CONTEXT(box);
    const struct mail_index_header *hdr;
    const char *why;
    struct op op;
    int ret;

    ret = mbox->module_ctx.super.sync_deinit(ctx, status_r);
    us_found_publish(box, mbox);
    if (ret < 0 || mbox->identity_sent || mbox->account == NULL || box->view == NULL)
        return ret;
    hdr = mail_index_get_header(box->view);
    mbox->identity_sent = TRUE;
    if (hdr->next_uid > 1 || hdr->uid_validity == 0 || us_account_admit(mbox->account, &why) != US_ADMIT_CAPTURE ||
        !us_mailbox_guid(box, mbox))
        return ret;
    op_begin(&op, OP_MAILBOX_UPDATED);
    op_put_guid(&op, OP_TAG_MAILBOX_GUID, mbox->guid);
    op_put_text(&op, OP_TAG_MAILBOX_NAME, mbox->name, OP_NAME_BYTES_MAX);
    op_put_u32(&op, OP_TAG_UID_VALIDITY, hdr->uid_validity);
    us_publish(mbox->account, &op, OP_MAILBOX_UPDATED, NULL, NULL);
    op_free(&op);
    return ret;
}

static struct mailbox_sync_context *us_sync_init(struct mailbox *box, enum mailbox_sync_flags flags)
{
    struct us_mailbox *mbox = US_MAILBOX_CONTEXT(box);

    us_mailbox_wait_deferred(mbox);
    return mbox->module_ctx.super.sync_init(box, flags);
}

static void us_free(struct mailbox *box)
{
    struct us_mailbox *mbox = US_MAILBOX_CONTEXT(box);

    us_mailbox_wait_deferred(mbox);
    us_index_freed(mbox);
    mbox->module_ctx.super.free(box);
    us_account_unref(&mbox->account);
}

void us_mailbox_opened(struct mailbox *box)
{
    struct us_mailbox *mbox = US_MAILBOX_CONTEXT(box);
    const char *why;

    if (mbox == NULL || mbox->account == NULL)
        return;
    /* Without it Dovecot does not keep a modseq per message. */
    if (us_account_admit(mbox->account, &why) == US_ADMIT_CAPTURE)
        (void)mailbox_enable(box, MAILBOX_FEATURE_CONDSTORE);
    if (us_is_maildir(box))
        us_index_opened(box, mbox);
}

/* The name as the owner sees it: a shared namespace puts its prefix before it. The owner's own prefix is not
 * known in this session; it is taken to be empty. */
static const char *us_owner_name(struct mailbox *box, bool shared)
{
    const char *prefix = box->list->ns->prefix;
    size_t bytes = prefix == NULL ? 0 : strlen(prefix);

    if (shared && bytes > 0 && strncmp(box->vname, prefix, bytes) == 0 && box->vname[bytes] != '\0')
        return box->vname + bytes;
    if (shared && bytes > 0 && strncmp(box->vname, prefix, bytes - 1) == 0 && box->vname[bytes - 1] == '\0')
        return "INBOX";
    return box->vname;
}

void us_mailbox_allocated(struct mailbox *box)
{
    struct us_user *uuser = US_USER_CONTEXT(box->storage->user);
    struct mailbox_vfuncs *v = box->vlast;
    struct mail_user *owner = box->list->ns->owner;
    const char *storage = box->storage->name;
    struct us_mailbox *mbox;
    bool shared;

    if (uuser == NULL || strcmp(storage, "raw") == 0)
        return;
    mbox = p_new(box->pool, struct us_mailbox, 1);
    mbox->user = uuser;
    shared = owner != NULL && strcmp(owner->username, box->storage->user->username) != 0;
    mbox->name = p_strdup(box->pool, us_owner_name(box, shared));
    if (owner != NULL &&
        (strcmp(storage, "maildir") == 0 || strcmp(storage, "sdbox") == 0 || strcmp(storage, "mdbox") == 0)) {
        mbox->account = us_account_ref(owner->username);
        if (shared)
            mbox->session_user = p_strdup(box->pool, box->storage->user->username);
    }
    mbox->module_ctx.super = *v;
    box->vlast = &mbox->module_ctx.super;
    v->set_subscribed = us_set_subscribed;
    v->free = us_free;
    if (mbox->account != NULL) {
        v->create_box = us_create_box;
        v->update_box = us_update_box;
        v->delete_box = us_delete_box;
        v->rename_box = us_rename_box;
        v->sync_init = us_sync_init;
        v->sync_deinit = us_sync_deinit;
        v->attribute_set = us_attribute_set;
        us_txn_override(v);
        us_save_override(v);
    }
    MODULE_CONTEXT_SET(box, us_storage_module, mbox);
}
