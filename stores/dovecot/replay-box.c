/* The mailbox that operations are being applied to: opened by identity, looked at, synchronised, kept.
 *
 * Owns: one open mailbox and what is known about it, and the few that stay open between requests. What can hurt: an identity that changes while it is open:
 * Dovecot keeps "mod-sequences are on" in the process's index across the reset and then repairs the index; so a
 * new UIDVALIDITY is set before they are turned on, and the mailbox is closed and opened again in between.
 * Refuses: giving a mailbox that holds messages another UIDVALIDITY; that is a conflict for the agent. */

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include "replay.h"

#include "mail-index-alloc-cache.h"
#include "mail-storage-private.h"

#include <fcntl.h>
#include <sys/stat.h>

void replay_box_look_end(struct replay_box *rb)
{
    if (rb->look != NULL)
        mail_free(&rb->look);
    if (rb->look_t != NULL)
        mailbox_transaction_rollback(&rb->look_t);
}

void replay_box_close(struct replay_box *rb)
{
    replay_box_look_end(rb);
    if (rb->box != NULL)
        mailbox_free(&rb->box);
    if (array_is_created(&rb->expunged))
        array_free(&rb->expunged);
    i_zero(rb);
}

static void refresh_status(struct replay_box *rb)
{
    struct mailbox_status status;

    mailbox_get_open_status(rb->box, STATUS_UIDVALIDITY | STATUS_UIDNEXT, &status);
    rb->uid_validity = status.uidvalidity;
    rb->next_uid = status.uidnext;
}

int replay_box_sync(struct replay_box *rb)
{
    replay_box_look_end(rb);
    rb->expunged_known = FALSE;
    if (mailbox_sync(rb->box, 0) < 0)
        return -1;
    refresh_status(rb);
    return 0;
}

void replay_box_keep(struct replay_user *user, struct replay_box *rb)
{
    replay_box_look_end(rb);
    if (rb->box == NULL)
        return;
    if (user->kept_count == REPLAY_KEPT_BOXES) {
        replay_box_close(&user->kept[0]);
        user->kept_count--;
        memmove(&user->kept[0], &user->kept[1], sizeof(user->kept[0]) * user->kept_count);
    }
    user->kept[user->kept_count++] = *rb;
    i_zero(rb);
}

void replay_kept_close(struct replay_user *user)
{
    while (user->kept_count > 0)
        replay_box_close(&user->kept[--user->kept_count]);
}

/* Another process may have made INBOX anew meanwhile. An index that is still in this process's memory is then of files
 * that are gone, and Dovecot takes the new ones for damaged and marks them so: seen as "indexid changed" and "Mailbox was
 * deleted under us", in each process in turn. What must see the store as it is begins without memory. */
void replay_boxes_forget(struct replay_user *user)
{
    replay_kept_close(user);
    mail_index_alloc_cache_destroy_unrefed();
}

/* A folder that is deleted and made again may get the same inode, so that its birth is looked at, too (zero where
 * the file system does not keep it). */
static bool folder_identity(struct mailbox *box, uint64_t *inode_r, uint64_t *born_ns_r)
{
    struct statx st;
    const char *path;

    if (mailbox_get_path_to(box, MAILBOX_LIST_PATH_TYPE_INDEX, &path) <= 0 ||
        statx(AT_FDCWD, path, 0, STATX_INO | STATX_BTIME, &st) < 0)
        return FALSE;
    *inode_r = st.stx_ino;
    *born_ns_r = (st.stx_mask & STATX_BTIME) == 0
                     ? 0
                     : (uint64_t)st.stx_btime.tv_sec * 1000000000u + (uint64_t)st.stx_btime.tv_nsec;
    return TRUE;
}

/* Whether a mailbox that was left open is still what it was: another process may have moved or deleted it. */
static bool still_good(struct replay_box *rb)
{
    struct mailbox_metadata metadata;
    enum mailbox_existence exists;
    uint64_t inode, born_ns;

    return folder_identity(rb->box, &inode, &born_ns) && inode == rb->folder_inode &&
           born_ns == rb->folder_born_ns && mailbox_exists(rb->box, FALSE, &exists) == 0 && exists == MAILBOX_EXISTENCE_SELECT &&
           replay_box_sync(rb) == 0 && !mailbox_is_inconsistent(rb->box) &&
           mailbox_get_metadata(rb->box, MAILBOX_METADATA_GUID, &metadata) == 0 &&
           guid_128_equals(metadata.guid, rb->guid);
}

static bool take_kept(struct replay_user *user, struct replay_box *rb, const guid_128_t guid)
{
    unsigned int i;

    for (i = user->kept_count; i > 0; i--) {
        if (!guid_128_equals(user->kept[i - 1].guid, guid))
            continue;
        *rb = user->kept[i - 1];
        user->kept_count--;
        memmove(&user->kept[i - 1], &user->kept[i], sizeof(user->kept[0]) * (user->kept_count - (i - 1)));
        if (still_good(rb))
            return TRUE;
        replay_box_close(rb);
        return FALSE;
    }
    return FALSE;
}

/* 1: opened and the identity is right, 0: another mailbox or none stands there, -1: failed. */
static int open_place(struct replay_box *rb, const struct replay_place *place, struct replay_result *result_r)
{
    struct mailbox_metadata metadata;

    rb->box = mailbox_alloc(place->ns->list, place->name, MAILBOX_FLAG_IGNORE_ACLS);
    if (mailbox_open(rb->box) < 0 || mailbox_get_metadata(rb->box, MAILBOX_METADATA_GUID, &metadata) < 0 ||
        mailbox_sync(rb->box, 0) < 0) {
        replay_error(mailbox_get_storage(rb->box), "mailbox cannot be opened", result_r);
        replay_box_close(rb);
        return result_r->status == REPLAY_NO_MAILBOX ? 0 : -1;
    }
    if (!guid_128_equals(metadata.guid, place->guid)) {
        replay_box_close(rb);
        return 0;
    }
    guid_128_copy(rb->guid, place->guid);
    refresh_status(rb);
    return 1;
}

/* Gives the mailbox the origin's UIDVALIDITY. 1: done, reopen it; 0: nothing to do; -1: failed. */
static int adopt_validity(struct replay_box *rb, uint32_t uid_validity, struct replay_result *result_r)
{
    struct mailbox_status status;
    struct mailbox_update update;

    if (uid_validity == 0 || uid_validity == rb->uid_validity)
        return 0;
    mailbox_get_open_status(rb->box, STATUS_MESSAGES, &status);
    if (status.messages > 0) {
        replay_set(result_r, REPLAY_CONFLICT,
                   t_strdup_printf("mailbox has UIDVALIDITY `%u` and messages, the operation says `%u`",
                                   rb->uid_validity, uid_validity));
        return -1;
    }
    i_zero(&update);
    update.uid_validity = uid_validity;
    if (mailbox_update(rb->box, &update) < 0 || mailbox_sync(rb->box, 0) < 0) {
        replay_error(mailbox_get_storage(rb->box), "UIDVALIDITY cannot be set", result_r);
        return -1;
    }
    return 1;
}

static int open_known(struct replay_apply *ap, struct replay_box *rb, const guid_128_t guid, uint32_t uid_validity,
                      struct replay_result *result_r)
{
    struct replay_place *place = replay_place_find(ap->user, guid);
    int ret, adopted;

    if (place == NULL)
        return 0;
    ret = open_place(rb, place, result_r);
    if (ret <= 0)
        return ret;
    if (uid_validity != 0 && uid_validity != rb->uid_validity) {
        replay_kept_close(ap->user);
        if (rb != &ap->source)
            replay_box_close(&ap->source);
    }
    adopted = adopt_validity(rb, uid_validity, result_r);
    if (adopted > 0) {
        replay_box_close(rb);
        ret = open_place(rb, place, result_r);
        if (ret <= 0)
            return ret;
    }
    if (adopted < 0) {
        replay_box_close(rb);
        return -1;
    }
    /* Without an index on disk it is opened anew every time: zeros are no folder's. */
    (void)folder_identity(rb->box, &rb->folder_inode, &rb->folder_born_ns);
    if (mailbox_enable(rb->box, MAILBOX_FEATURE_CONDSTORE) < 0 || replay_box_sync(rb) < 0) {
        replay_error(mailbox_get_storage(rb->box), "mailbox cannot be synchronised", result_r);
        replay_box_close(rb);
        return -1;
    }
    return 1;
}

bool replay_box_open(struct replay_apply *ap, struct replay_box *rb, const guid_128_t guid, uint32_t uid_validity,
                     struct replay_result *result_r)
{
    int ret;

    if (rb->box != NULL && guid_128_equals(rb->guid, guid) &&
        (uid_validity == 0 || uid_validity == rb->uid_validity))
        return TRUE;
    /* A change of UIDVALIDITY must be seen by every handle: none is left open. */
    if (rb->box != NULL && guid_128_equals(rb->guid, guid))
        replay_box_close(rb);
    else
        replay_box_keep(ap->user, rb);
    if (take_kept(ap->user, rb, guid)) {
        if (uid_validity == 0 || uid_validity == rb->uid_validity)
            return TRUE;
        replay_box_close(rb);
    }
    ret = open_known(ap, rb, guid, uid_validity, result_r);
    if (ret == 0 && !ap->places_fresh) {
        replay_places_read(ap->user);
        ap->places_fresh = TRUE;
        ret = open_known(ap, rb, guid, uid_validity, result_r);
    }
    if (ret == 0)
        replay_set(result_r, REPLAY_NO_MAILBOX, "no mailbox of this GUID");
    return ret > 0;
}

bool replay_box_seek(struct replay_box *rb, struct mail *mail, uint32_t uid)
{
    uint32_t seq1, seq2;

    mailbox_get_seq_range(rb->box, uid, uid, &seq1, &seq2);
    if (seq1 == 0)
        return FALSE;
    mail_set_seq(mail, seq1);
    return TRUE;
}

struct mail *replay_box_look(struct replay_box *rb, uint32_t uid)
{
    if (rb->look == NULL) {
        rb->look_t = mailbox_transaction_begin(rb->box, MAILBOX_TRANSACTION_FLAG_NO_NOTIFY, "understudy look");
        rb->look = mail_alloc(rb->look_t, 0, NULL);
    }
    return replay_box_seek(rb, rb->look, uid) ? rb->look : NULL;
}

/* Reads the whole log of the mailbox once. It is cut from time to time; what it no longer knows is answered with
 * "no", and the agent compares the mailbox. */
static void read_expunged(struct replay_box *rb)
{
    ARRAY_TYPE(seq_range) all;

    if (!array_is_created(&rb->expunged))
        i_array_init(&rb->expunged, 16);
    array_clear(&rb->expunged);
    rb->expunged_known = TRUE;
    t_array_init(&all, 1);
    seq_range_array_add_range(&all, 1, I_MAX(rb->next_uid, 2) - 1);
    (void)mailbox_get_expunges(rb->box, 0, &all, &rb->expunged);
}

bool replay_box_was_expunged(struct replay_box *rb, uint32_t uid, const char *guid)
{
    const struct mailbox_expunge_rec *rec;
    guid_128_t wanted;
    bool found = FALSE;

    if (!rb->expunged_known) T_BEGIN {
        read_expunged(rb);
    } T_END;
    mail_generate_guid_128_hash(guid, wanted);
    array_foreach(&rb->expunged, rec) {
        if (rec->uid == uid)
            found = guid_128_is_empty(rec->guid_128) || guid_128_equals(rec->guid_128, wanted);
    }
    return found;
}
