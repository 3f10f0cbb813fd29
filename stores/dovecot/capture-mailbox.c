/* Changes of mailboxes themselves: created, deleted, renamed, updated, subscribed.
 *
 * Owns: the plugin's state of a mailbox and the overrides of these commands.
 * What can hurt: Dovecot calls create, delete and rename under the lock of the mailbox list. Operations are
 * published there, so that their order is right, but the wait for the acknowledgement is put off to the next
 * call on the mailbox without a lock, at the latest its `free`; IMAP holds the OK back until then, because a
 * command's output is corked. And asking a Maildir for its status inside create changes its UIDVALIDITY, so
 * only its files are looked at there.
 * Refuses: storages other than Maildir, sdbox and mdbox; public namespaces, which have no owner. */
#include "capture.h"

#include "mailbox-uidvalidity.h"

struct us_storage_module us_storage_module = MODULE_CONTEXT_INIT(&mail_storage_module_register);

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

/* After a change of the list that failed: whether it was refused before anything was done, as what the client is told
 * as its own mistake. */
static bool us_change_refused(struct mailbox *box)
{
    switch (mailbox_get_last_mail_error(box)) {
    case MAIL_ERROR_PARAMS:
    case MAIL_ERROR_PERM:
    case MAIL_ERROR_NOTPOSSIBLE:
    case MAIL_ERROR_NOQUOTA:
    case MAIL_ERROR_LIMIT:
        return TRUE;
    default:
        return FALSE;
    }
}

/* Closes the intent, if it is given. */
static void us_created_publish(struct mailbox *box, struct us_mailbox *mbox, uint32_t uid_validity,
                               struct us_intent *intent)
{
    struct op op;

    op_begin(&op, OP_MAILBOX_CREATED);
    op_put_guid(&op, OP_TAG_MAILBOX_GUID, mbox->guid);
    op_put_text(&op, OP_TAG_MAILBOX_NAME, mbox->name, OP_NAME_BYTES_MAX);
    if (guid_128_is_empty(mbox->guid))
        op_put_u32(&op, OP_TAG_DIRECTORY, 1);
    else
        op_put_u32(&op, OP_TAG_UID_VALIDITY, uid_validity);
    us_put_session(&op, box, mbox);
    us_publish(mbox->account, &op, OP_MAILBOX_CREATED, intent, &mbox->deferred);
    op_free(&op);
}

/* A session that opened the folder before it was a mailbox has made it one (sdbox, mdbox: CREATE then says that it
 * exists), and folders above may have been made: what there is now is told, whoever made it. */
static void us_create_failed(struct mailbox *box, struct us_mailbox *mbox, struct us_intent *intent)
{
    uint32_t uid_validity;
    int there;

    if (!us_is_looking() && !us_change_refused(box)) {
        there = us_named_identity(box, box->vname, mbox->guid, &uid_validity);
        if (there > 0) {
            us_created_publish(box, mbox, uid_validity, NULL);
            /* Dovecot's list does not have it (seen with mdbox). */
            us_list_again(box);
        } else if (there < 0) {
            us_gap(mbox->account, "a mailbox was not created, or only half");
        }
        if (us_has_directories(box, mbox))
            us_directories_publish(box, mbox);
    }
    us_intent_end(mbox->account, intent);
}

static int us_create_box(struct mailbox *box, const struct mailbox_update *update, bool directory)
{
    struct us_mailbox *mbox = US_MAILBOX_CONTEXT(box);
    struct mailbox_update filled;
    uint32_t uid_validity = 0;
    struct us_intent intent;
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
        us_create_failed(box, mbox, &intent);
        return ret;
    }
    guid_128_empty(mbox->guid);
    /* What has come to be, not what was asked for: a session that opened it meanwhile may have been first. */
    if ((!directory || us_is_maildir(box)) && us_mailbox_guid(box, mbox))
        uid_validity = us_identity_read(box, mbox);
    /* The list of mailboxes has answered, and knows one that stood there before. */
    if (uid_validity == 0 && us_is_maildir(box))
        (void)us_named_identity(box, box->vname, mbox->guid, &uid_validity);
    if (uid_validity == 0 && (!directory || us_is_maildir(box))) {
        us_gap(mbox->account, "a new mailbox has no identity");
        us_intent_end(mbox->account, &intent);
        return ret;
    }
    us_created_publish(box, mbox, uid_validity, &intent);
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

static void us_deleted_publish(struct mailbox *box, struct us_mailbox *mbox, const guid_128_t guid)
{
    struct op op;

    op_begin(&op, OP_MAILBOX_DELETED);
    op_put_bytes(&op, OP_TAG_MAILBOX_GUID, guid, GUID_128_SIZE, GUID_128_SIZE); /* a directory has zeros */
    op_put_text(&op, OP_TAG_MAILBOX_NAME, mbox->name, OP_NAME_BYTES_MAX);
    us_put_session(&op, box, mbox);
    us_publish(mbox->account, &op, OP_MAILBOX_DELETED, NULL, &mbox->deferred);
    op_free(&op);
    if (us_has_directories(box, mbox))
        us_directories_publish(box, mbox);
}

static int us_delete_box(struct mailbox *box)
{
    struct us_mailbox *mbox = US_MAILBOX_CONTEXT(box);
    struct us_intent intent;
    uint32_t uid_validity;
    guid_128_t guid;
    bool capture;
    int ret, there = 0;

    guid_128_empty(guid);
    if (mbox->account != NULL) {
        there = us_named_identity(box, box->vname, guid, &uid_validity); /* only before: afterwards it is gone */
        guid_128_copy(mbox->guid, guid);
        if (there <= 0 && box->opened) {
            /* As one whose deletion once ended half way. */
            us_mailbox_guid_again(box, mbox);
            guid_128_copy(guid, mbox->guid);
            there = guid_128_is_empty(guid) ? -1 : 1;
        }
    }
    if (!us_change_begin(box, mbox, mbox->account, &intent, &capture))
        return -1;
    if (mbox->account != NULL && box->opened && compat_moved_away(box)) {
        /* Renamed or deleted since Dovecot opened it: going on would harm two mailboxes. */
        mail_storage_set_error(box->storage, MAIL_ERROR_NOTFOUND, T_MAIL_ERR_MAILBOX_NOT_FOUND(box->vname));
        if (capture)
            us_intent_end(mbox->account, &intent);
        return -1;
    }
    ret = mbox->module_ctx.super.delete_box(box);
    if (!capture)
        return ret;
    if (there < 0)
        us_gap(mbox->account, "it is not known which mailbox was deleted");
    else if (ret == 0 || (there > 0 && us_folder_is_gone(box)))
        us_deleted_publish(box, mbox, guid);
    else if (mailbox_get_last_mail_error(box) == MAIL_ERROR_TEMP)
        us_gap(mbox->account, "a mailbox was not deleted, or only half");
    us_intent_end(mbox->account, &intent);
    guid_128_empty(mbox->guid);
    mbox->identity_sent = 0;
    return ret;
}

static void us_renamed_publish(struct mailbox *src, struct us_mailbox *from, const char *to)
{
    struct op op;

    op_begin(&op, OP_MAILBOX_RENAMED);
    op_put_guid(&op, OP_TAG_MAILBOX_GUID, from->guid);
    op_put_text(&op, OP_TAG_OLD_NAME, from->name, OP_NAME_BYTES_MAX);
    op_put_text(&op, OP_TAG_MAILBOX_NAME, to, OP_NAME_BYTES_MAX);
    us_put_session(&op, src, from);
    us_publish(from->account, &op, OP_MAILBOX_RENAMED, NULL, &from->deferred);
    op_free(&op);
}

static int us_rename_box(struct mailbox *src, struct mailbox *dest)
{
    struct us_mailbox *from = US_MAILBOX_CONTEXT(src), *to = US_MAILBOX_CONTEXT(dest);
    bool own = to != NULL && to->account == from->account, capture, moved, known;
    struct us_intent intent;
    uint32_t uid_validity;
    int ret, there = 0;

    if (from->account != NULL)
        there = us_named_identity(src, src->vname, from->guid, &uid_validity);
    if (!us_change_begin(src, from, from->account, &intent, &capture))
        return -1;
    ret = from->module_ctx.super.rename_box(src, dest);
    if (!capture)
        return ret;
    if (ret < 0 && us_change_refused(src)) {
        us_intent_end(from->account, &intent);
        return ret;
    }
    /* What failed half way may have moved the mailbox itself, or some of those below it. */
    moved = ret == 0 || (there > 0 && own && us_stands_at(dest, from->guid));
    known = there >= 0 && (moved || there == 0 || us_stands_at(src, from->guid));
    if (us_has_directories(src, from) || !own) {
        /* Of a layout of folders what is below has moved along. Folders above the new name are made first, and stay
           (seen with sdbox: RENAME of what is not there). */
        if (moved && known)
            us_renamed_publish(src, from, to == NULL ? dest->vname : to->name);
        if (us_has_directories(src, from))
            us_directories_publish(src, from);
        if (!moved && own)
            us_directories_publish(dest, to);
        known = known && (moved || there > 0 || mailbox_get_last_mail_error(src) != MAIL_ERROR_TEMP);
    } else {
        /* A name of a Maildir without a mailbox is nothing: only what is below it can have moved. */
        if (moved && there > 0)
            us_renamed_publish(src, from, to->name);
        us_below_publish(dest, from, from->name);
        us_below_publish(src, from, to->name);
    }
    if (!known)
        us_gap(from->account, "it is not known which mailboxes were renamed");
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

static int us_sync_deinit(struct mailbox_sync_context *ctx, struct mailbox_sync_status *status_r)
{
    struct mailbox *box = ctx->box;
    struct us_mailbox *mbox = US_MAILBOX_CONTEXT(box);
    int ret;

    ret = mbox->module_ctx.super.sync_deinit(ctx, status_r);
    us_found_publish(box, mbox);
    if (ret == 0 && mbox->account != NULL && box->view != NULL)
        us_identity_synced(box, mbox);
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
