/* What stands at a name, looked up under the lock of the mailbox list.
 *
 * Owns: the identity of the mailbox that a name means now, and what is told of names that hold no mail.
 * What can hurt: Dovecot opens the mailbox that is to be deleted before it takes the lock of the list. Another session
 * may rename it in between, and then Dovecot would empty the renamed one and take away the folder of whatever stands
 * at the old name. And in a layout of folders (sdbox, mdbox) a parent without mail appears with the first mailbox under
 * it and may stay or go with the last one, by what lies in it; so its state is told, not what might follow from it.
 * A Maildir++ moves the mailboxes below a renamed one singly, and leaves those behind whose new name is in use, so it
 * is told where each of them stands.
 * Refuses: names of other users' mailboxes. */
#include "capture.h"

#include "mail-namespace.h"
#include "mailbox-list-index.h"
#include "mailbox-list-private.h"

/* Opening an INBOX that is not there makes it. */
static bool looking;

bool us_is_looking(void)
{
    return looking;
}

int us_named_identity(struct mailbox *box, const char *name, guid_128_t guid_r, uint32_t *uid_validity_r)
{
    struct mailbox *named = mailbox_alloc(box->list, name, MAILBOX_FLAG_READONLY | MAILBOX_FLAG_IGNORE_ACLS);
    struct us_mailbox *mbox = US_MAILBOX_CONTEXT(named);
    bool was_looking = looking;
    int ret;

    guid_128_empty(guid_r);
    *uid_validity_r = 0;
    mailbox_skip_create_name_restrictions(named, TRUE);
    mail_storage_last_error_push(box->storage);
    looking = TRUE;
    if (mailbox_open(named) < 0) {
        ret = mailbox_get_last_mail_error(named) == MAIL_ERROR_NOTFOUND ? 0 : -1;
    } else if (mbox == NULL || !us_mailbox_guid(named, mbox)) {
        ret = -1;
    } else {
        *uid_validity_r = us_identity_read(named, mbox);
        guid_128_copy(guid_r, mbox->guid);
        ret = *uid_validity_r == 0 ? -1 : 1;
    }
    looking = was_looking;
    mailbox_free(&named);
    mail_storage_last_error_pop(box->storage);
    return ret;
}

static int us_named_guid(struct mailbox *box, const char *name, guid_128_t guid_r)
{
    uint32_t uid_validity;

    return us_named_identity(box, name, guid_r, &uid_validity);
}

bool us_is_gone(struct mailbox *box)
{
    return box->mailbox_deleted || (box->index != NULL && mail_index_is_deleted(box->index)) || us_folder_is_gone(box);
}

bool us_folder_is_gone(struct mailbox *box)
{
    const char *path;
    struct stat st;

    return mailbox_get_path_to(box, MAILBOX_LIST_PATH_TYPE_MAILBOX, &path) > 0 && stat(path, &st) < 0 &&
           errno == ENOENT;
}

void us_list_again(struct mailbox *box)
{
    if (INDEX_LIST_CONTEXT(box->list) != NULL)
        mailbox_list_index_refresh_later(box->list);
}

bool us_has_directories(struct mailbox *box, const struct us_mailbox *mbox)
{
    return mbox->session_user == NULL && strcmp(box->list->name, MAILBOX_LIST_NAME_MAILDIRPLUSPLUS) != 0;
}

bool us_stands_at(struct mailbox *box, const guid_128_t guid)
{
    guid_128_t now;

    return us_named_guid(box, box->vname, now) > 0 && guid_128_equals(now, guid);
}

void us_below_publish(struct mailbox *box, struct us_mailbox *mbox, const char *other)
{
    size_t bytes = strlen(box->vname);
    char sep = mail_namespace_get_sep(box->list->ns);
    struct mailbox_list_iterate_context *iter;
    const struct mailbox_info *info;
    ARRAY_TYPE(const_string) names;
    const char *name, *const *at;

    if (mbox->session_user != NULL || strcmp(box->list->name, MAILBOX_LIST_NAME_MAILDIRPLUSPLUS) != 0)
        return;
    t_array_init(&names, 16);
    /* Of the folders: the index of the list may be from before the rename. */
    iter = mailbox_list_iter_init(box->list, t_strdup_printf("%s%c*", box->vname, sep),
                                  MAILBOX_LIST_ITER_RAW_LIST | MAILBOX_LIST_ITER_NO_AUTO_BOXES |
                                      MAILBOX_LIST_ITER_RETURN_NO_FLAGS);
    while ((info = mailbox_list_iter_next(iter)) != NULL) {
        /* A name may hold signs that stand for others in a pattern. */
        if (strncmp(info->vname, box->vname, bytes) != 0 || info->vname[bytes] != sep)
            continue;
        name = t_strdup(info->vname);
        array_push_back(&names, &name);
    }
    if (mailbox_list_iter_deinit(&iter) < 0)
        us_gap(mbox->account, "the mailboxes below a renamed one cannot be listed");
    array_foreach(&names, at) T_BEGIN {
        guid_128_t guid;
        struct op op;

        if (us_named_guid(box, *at, guid) > 0) {
            op_begin(&op, OP_MAILBOX_RENAMED);
            op_put_guid(&op, OP_TAG_MAILBOX_GUID, guid);
            op_put_text(&op, OP_TAG_OLD_NAME, t_strconcat(other, *at + bytes, NULL), OP_NAME_BYTES_MAX);
            op_put_text(&op, OP_TAG_MAILBOX_NAME, *at, OP_NAME_BYTES_MAX);
            us_publish(mbox->account, &op, OP_MAILBOX_RENAMED, NULL, NULL);
            op_free(&op);
        }
    } T_END;
}

static void us_name_publish(struct mailbox *box, struct us_mailbox *mbox, const char *name)
{
    enum mailbox_existence exists;
    struct mailbox *named;
    guid_128_t zeros, guid;
    struct op op;
    int ret;

    named = mailbox_alloc(box->list, name, MAILBOX_FLAG_IGNORE_ACLS);
    mailbox_skip_create_name_restrictions(named, TRUE);
    ret = mailbox_is_any_inbox(named) ? 0 : mailbox_exists(named, FALSE, &exists);
    if (ret == 0 && !mailbox_is_any_inbox(named) && exists == MAILBOX_EXISTENCE_SELECT &&
        us_named_guid(box, name, guid) == 0)
        exists = MAILBOX_EXISTENCE_NOSELECT;
    if (ret < 0) {
        us_gap(mbox->account, "a name cannot be looked up");
    } else if (mailbox_is_any_inbox(named) || exists == MAILBOX_EXISTENCE_SELECT) {
        /* Its own operations tell of it. */
    } else if (exists == MAILBOX_EXISTENCE_NOSELECT) {
        op_begin(&op, OP_MAILBOX_CREATED);
        op_put_text(&op, OP_TAG_MAILBOX_NAME, name, OP_NAME_BYTES_MAX);
        op_put_u32(&op, OP_TAG_DIRECTORY, 1);
        us_publish(mbox->account, &op, OP_MAILBOX_CREATED, NULL, NULL);
        op_free(&op);
    } else {
        guid_128_empty(zeros);
        op_begin(&op, OP_MAILBOX_DELETED);
        op_put_bytes(&op, OP_TAG_MAILBOX_GUID, zeros, sizeof(zeros), sizeof(zeros));
        op_put_text(&op, OP_TAG_MAILBOX_NAME, name, OP_NAME_BYTES_MAX);
        us_publish(mbox->account, &op, OP_MAILBOX_DELETED, NULL, NULL);
        op_free(&op);
    }
    mailbox_free(&named);
}

/* The name above this one, after the namespace's prefix; NULL at the top. */
static const char *us_parent_name(const char *name, size_t prefix, char sep)
{
    const char *end = strlen(name) <= prefix ? NULL : strrchr(name + prefix, sep);

    return end == NULL || end == name + prefix ? NULL : t_strdup_until(name, end);
}

void us_directories_publish(struct mailbox *box, struct us_mailbox *mbox)
{
    struct mail_namespace *ns = box->list->ns;
    char sep = mail_namespace_get_sep(ns);
    size_t prefix = strncmp(box->vname, ns->prefix, ns->prefix_len) == 0 ? ns->prefix_len : 0;
    const char *name = box->vname;

    mail_storage_last_error_push(box->storage);
    /* From the name up to its first parent: a child is gone before its parent can go. */
    for (; name != NULL; name = us_parent_name(name, prefix, sep)) T_BEGIN {
        us_name_publish(box, mbox, name);
    } T_END;
    mail_storage_last_error_pop(box->storage);
}
