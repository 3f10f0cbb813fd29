/* Identity of a mailbox: GUID and UIDVALIDITY, from where they are in the end.
 *
 * Owns: where the two are read, and telling those of a Maildir's INBOX, which is never created.
 * What can hurt: several sessions that open a new mailbox at once each choose an identity, and only one is kept. With
 * Maildir the file `dovecot-uidlist` has the last word: it is written under a lock, and who comes later takes what it
 * says, while the index may say another UIDVALIDITY until its next sync. With sdbox and mdbox it is the index: whoever
 * gets its sync lock first writes the header. The list of mailboxes may tell the GUID of a mailbox that stood at the
 * name before.
 * Refuses: making an identity, but for the GUID of a Maildir that has none yet. */
#include "capture.h"

#include <fcntl.h>
#include <unistd.h>

#define UIDLIST_NAME "dovecot-uidlist"
/* The first line has about 60 bytes; it may hold extensions. */
#define UIDLIST_HEAD_BYTES 1024

bool us_is_maildir(const struct mailbox *box)
{
    return strcmp(box->storage->name, "maildir") == 0;
}

/* What the first line of `dovecot-uidlist` says: "3 V<UIDVALIDITY> N<next UID> G<GUID>". */
static bool us_maildir_identity(struct mailbox *box, guid_128_t guid_r, uint32_t *uid_validity_r)
{
    char head[UIDLIST_HEAD_BYTES];
    const char *dir, *const *words;
    ssize_t bytes;
    char *end;
    int fd;

    guid_128_empty(guid_r);
    *uid_validity_r = 0;
    if (mailbox_get_path_to(box, MAILBOX_LIST_PATH_TYPE_CONTROL, &dir) <= 0)
        return FALSE;
    fd = open(t_strconcat(dir, "/" UIDLIST_NAME, NULL), O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return FALSE;
    bytes = read(fd, head, sizeof(head) - 1);
    (void)close(fd);
    if (bytes <= 0)
        return FALSE;
    head[bytes] = '\0';
    end = strchr(head, '\n');
    if (end == NULL)
        return FALSE;
    *end = '\0';
    words = t_strsplit_spaces(head, " ");
    if (words[0] == NULL || strcmp(words[0], "3") != 0)
        return FALSE;
    for (words++; *words != NULL; words++) {
        if (**words == 'V' && str_to_uint32(*words + 1, uid_validity_r) < 0)
            return FALSE;
        if (**words == 'G' && guid_128_from_string(*words + 1, guid_r) < 0)
            return FALSE;
    }
    return !guid_128_is_empty(guid_r) && *uid_validity_r != 0;
}

uint32_t us_identity_read(struct mailbox *box, struct us_mailbox *mbox)
{
    struct mail_index_view *view;
    uint32_t uid_validity = 0;
    guid_128_t guid;

    if (us_is_maildir(box)) {
        T_BEGIN {
            if (us_maildir_identity(box, guid, &uid_validity))
                guid_128_copy(mbox->guid, guid);
        } T_END;
    } else if (box->opened) {
        (void)mail_index_refresh(box->index);
        if (compat_dbox_guid(box, guid))
            guid_128_copy(mbox->guid, guid);
        view = mail_index_view_open(box->index);
        uid_validity = mail_index_get_header(view)->uid_validity;
        mail_index_view_close(&view);
    }
    return uid_validity;
}

void us_mailbox_guid_again(struct mailbox *box, struct us_mailbox *mbox)
{
    guid_128_t guid;
    uint32_t uid_validity;

    T_BEGIN {
        if (us_is_maildir(box) ? us_maildir_identity(box, guid, &uid_validity) :
                                 box->opened && compat_dbox_guid(box, guid))
            guid_128_copy(mbox->guid, guid);
    } T_END;
}

bool us_mailbox_guid(struct mailbox *box, struct us_mailbox *mbox)
{
    struct mailbox_metadata metadata;

    if (guid_128_is_empty(mbox->guid) || !us_is_maildir(box))
        us_mailbox_guid_again(box, mbox);
    if (!guid_128_is_empty(mbox->guid))
        return TRUE;
    mail_storage_last_error_push(box->storage);
    /* Not opened here: a Maildir's INBOX that is opened while it is created gets another UIDVALIDITY later. */
    if (mailbox_get_metadata(box, MAILBOX_METADATA_GUID, &metadata) == 0)
        guid_128_copy(mbox->guid, metadata.guid);
    mail_storage_last_error_pop(box->storage);
    return !guid_128_is_empty(mbox->guid);
}

void us_identity_synced(struct mailbox *box, struct us_mailbox *mbox)
{
    const struct mail_index_header *hdr = mail_index_get_header(box->view);
    uint32_t uid_validity;
    const char *why;
    struct op op;

    /* Any other mailbox is told of when it is created, under the lock of the list. Told here, it might have been
       deleted meanwhile, and would come to be again on a replica. */
    if (!us_is_maildir(box) || !box->inbox_any || hdr->next_uid > 1 || hdr->uid_validity == 0 ||
        hdr->uid_validity == mbox->identity_sent || us_account_admit(mbox->account, &why) != US_ADMIT_CAPTURE)
        return;
    uid_validity = us_identity_read(box, mbox);
    if (uid_validity == 0 || guid_128_is_empty(mbox->guid))
        return;
    mbox->identity_sent = hdr->uid_validity;
    op_begin(&op, OP_MAILBOX_UPDATED);
    op_put_guid(&op, OP_TAG_MAILBOX_GUID, mbox->guid);
    op_put_text(&op, OP_TAG_MAILBOX_NAME, mbox->name, OP_NAME_BYTES_MAX);
    op_put_u32(&op, OP_TAG_UID_VALIDITY, uid_validity);
    us_publish(mbox->account, &op, OP_MAILBOX_UPDATED, NULL, NULL);
    op_free(&op);
}
