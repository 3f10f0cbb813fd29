/* Operations on mailboxes: created, deleted, renamed, updated.
 *
 * Owns: making the list of mailboxes and their identities what the origin had. What can hurt: Dovecot itself makes
 * mailboxes with an identity of its own (INBOX, `auto =`) on the first login; an empty one takes on the origin's
 * identity, one with messages is a conflict for the agent. Refuses: opening a mailbox only to create it (Maildir
 * would mint a UIDVALIDITY that the origin's then contradicts), and moving a mailbox aside. */

#include "replay.h"

#include "mail-namespace.h"
#include "mailbox-list-private.h"
#include "unlink-directory.h"

static struct mailbox *box_alloc(struct mail_namespace *ns, const char *name)
{
    struct mailbox *box = mailbox_alloc(ns->list, name, MAILBOX_FLAG_IGNORE_ACLS);

    /* What the origin accepted as a name is accepted here. */
    mailbox_skip_create_name_restrictions(box, TRUE);
    return box;
}

/* The place of an identity, by a list that is read at most once per request. */
static struct replay_place *place_of(struct replay_apply *ap, const guid_128_t guid)
{
    struct replay_place *place = replay_place_find(ap->user, guid);

    if (place == NULL && !ap->places_fresh) {
        replay_places_read(ap->user);
        ap->places_fresh = TRUE;
        place = replay_place_find(ap->user, guid);
    }
    return place;
}

static int existence(struct mailbox *box, enum mailbox_existence *existence_r, struct replay_result *result)
{
    if (mailbox_exists(box, FALSE, existence_r) < 0) {
        replay_error(mailbox_get_storage(box), "mailbox cannot be looked up", result);
        return -1;
    }
    return 0;
}

/* A mailbox of that name stands there with another identity. An empty one takes on the origin's. */
static bool adopt(struct mailbox **box, const struct mailbox_update *update, struct replay_result *result)
{
    struct mail_namespace *ns = mailbox_get_namespace(*box);
    const char *name = t_strdup(mailbox_get_vname(*box));
    struct mailbox_status status;

    if (mailbox_open(*box) < 0 || mailbox_sync(*box, 0) < 0) {
        replay_error(mailbox_get_storage(*box), "mailbox of that name cannot be opened", result);
        return FALSE;
    }
    mailbox_get_open_status(*box, STATUS_MESSAGES | STATUS_UIDNEXT, &status);
    if (status.messages > 0) {
        replay_set(result, REPLAY_CONFLICT, "another mailbox of that name holds messages");
        return FALSE;
    }
    /* It has held messages: its counters would refuse the origin's UIDs. */
    if (status.uidnext > 1 && !replay_inbox_needs_renewal(*box)) {
        mailbox_close(*box);
        if (mailbox_delete_empty(*box) == 0) {
            mailbox_free(box);
            *box = box_alloc(ns, name);
            if (mailbox_create(*box, update, FALSE) == 0)
                return TRUE;
            replay_error(mailbox_get_storage(*box), "mailbox cannot be created again", result);
            return FALSE;
        }
    }
    if (status.uidnext > 1 && replay_inbox_needs_renewal(*box)) {
        if (!replay_inbox_renew(box, result))
            return FALSE;
        if (strcmp(mailbox_get_storage(*box)->name, "maildir") != 0 && mailbox_create(*box, update, FALSE) == 0)
            return TRUE;
    }
    if (mailbox_update(*box, update) < 0 || mailbox_sync(*box, 0) < 0) {
        replay_error(mailbox_get_storage(*box), "mailbox cannot take on the identity", result);
        return FALSE;
    }
    return TRUE;
}

/* The list of mailboxes goes on naming a mailbox that was deleted while it had children, although nothing is there
 * (seen with Maildir and sdbox): only opening it tells. */
static bool is_there(struct mailbox *box)
{
    enum mail_error error;

    if (mailbox_open(box) == 0)
        return TRUE;
    (void)mailbox_get_last_error(box, &error);
    mailbox_close(box);
    return error != MAIL_ERROR_NOTFOUND;
}

/* What somebody who had a deleted Maildir open left in its place: a folder that is no mailbox, and that no mailbox can
 * be made in. It holds no other mailboxes in a layout of one folder each. */
static bool clear_remains(struct mailbox *box)
{
    const char *path, *error;

    if (strcmp(mailbox_get_storage(box)->name, "maildir") != 0 || mailbox_is_any_inbox(box) ||
        strcmp(mailbox_get_namespace(box)->list->name, MAILBOX_LIST_NAME_MAILDIRPLUSPLUS) != 0 ||
        mailbox_get_path_to(box, MAILBOX_LIST_PATH_TYPE_MAILBOX, &path) <= 0)
        return FALSE;
    if (unlink_directory(path, UNLINK_DIRECTORY_FLAG_RMDIR, &error) < 0) {
        i_warning("what is left of a deleted mailbox cannot be removed: %s", error);
        return FALSE;
    }
    return TRUE;
}

/* Creates or adopts under this name. */
static bool make(struct mailbox **box, const struct mailbox_update *update, struct replay_result *result)
{
    enum mailbox_existence exists;
    enum mail_error error;

    if (existence(*box, &exists, result) < 0)
        return FALSE;
    if (exists != MAILBOX_EXISTENCE_SELECT || !is_there(*box)) {
        if (mailbox_create(*box, update, FALSE) == 0)
            return TRUE;
        (void)mailbox_get_last_error(*box, &error);
        if (error != MAIL_ERROR_EXISTS) {
            replay_error(mailbox_get_storage(*box), "mailbox cannot be created", result);
            return FALSE;
        }
        /* Maildir's INBOX, and a mailbox that came to be in between. */
        mailbox_close(*box);
        if (!is_there(*box) && clear_remains(*box) && mailbox_create(*box, update, FALSE) == 0)
            return TRUE;
        mailbox_close(*box);
    }
    return adopt(box, update, result);
}

bool replay_mailbox_ensure(struct replay_apply *ap, const guid_128_t guid, const char *name, uint32_t uid_validity,
                           bool *changed_r, struct replay_result *result)
{
    struct mail_namespace *ns;
    struct mailbox_update update;
    struct mailbox *box;
    bool ok;

    *changed_r = FALSE;
    if (place_of(ap, guid) != NULL)
        return TRUE;
    ns = *name == '\0' ? NULL : replay_namespace(ap->user, name);
    if (ns == NULL) {
        replay_set(result, *name == '\0' ? REPLAY_NO_MAILBOX : REPLAY_REFUSED,
                   *name == '\0' ? "no mailbox of this GUID" : "name is in no private namespace of the account");
        return FALSE;
    }
    /* A mailbox of that name may get another identity: nobody may have it open. */
    replay_box_close(&ap->current);
    replay_box_close(&ap->source);
    replay_kept_close(ap->user);
    i_zero(&update);
    guid_128_copy(update.mailbox_guid, guid);
    update.uid_validity = uid_validity;
    box = box_alloc(ns, name);
    ok = make(&box, &update, result);
    if (ok) {
        replay_place_set(ap->user, guid, ns, mailbox_get_vname(box));
        *changed_r = TRUE;
    }
    mailbox_free(&box);
    return ok;
}

bool replay_mailbox_ensure_open(struct replay_apply *ap, const struct us_op *op, bool *made_r,
                                struct replay_result *result)
{
    if (!replay_mailbox_ensure(ap, op->mailbox, op->name, op->uid_validity, made_r, result))
        return FALSE;
    if (replay_box_open(ap, &ap->current, op->mailbox, op->uid_validity, result))
        return TRUE;
    /* Gone since its place was noted, which the attempt has found out. */
    return result->status == REPLAY_NO_MAILBOX && !*made_r &&
           replay_mailbox_ensure(ap, op->mailbox, op->name, op->uid_validity, made_r, result) &&
           replay_box_open(ap, &ap->current, op->mailbox, op->uid_validity, result);
}

static void make_directory(struct replay_apply *ap, const char *name, struct replay_result *result)
{
    struct mail_namespace *ns = replay_namespace(ap->user, name);
    enum mailbox_existence exists;
    struct mailbox *box;

    if (ns == NULL) {
        replay_set(result, REPLAY_REFUSED, "name is in no private namespace of the account");
        return;
    }
    box = box_alloc(ns, name);
    if (existence(box, &exists, result) == 0) {
        if (exists != MAILBOX_EXISTENCE_NONE)
            replay_set(result, REPLAY_ALREADY, "");
        else if (mailbox_create(box, NULL, TRUE) == 0)
            replay_set(result, REPLAY_APPLIED, "");
        else
            replay_error(mailbox_get_storage(box), "directory cannot be created", result);
    }
    mailbox_free(&box);
}

/* The name must be free, or held by an empty mailbox that Dovecot made by itself, or by a folder without mailboxes. */
static bool clear_target(struct mailbox **dest, struct replay_result *result)
{
    enum mailbox_existence exists;
    struct mailbox_status status;

    if (existence(*dest, &exists, result) < 0)
        return FALSE;
    if (exists == MAILBOX_EXISTENCE_NONE)
        return TRUE;
    if (exists == MAILBOX_EXISTENCE_NOSELECT) {
        if (mailbox_delete(*dest) == 0)
            return TRUE;
        replay_set(result, REPLAY_CONFLICT, "the new name holds mailboxes");
        return FALSE;
    }
    if (!is_there(*dest))
        return TRUE;
    mailbox_close(*dest);
    if (mailbox_is_any_inbox(*dest) && mailbox_get_status(*dest, STATUS_MESSAGES, &status) == 0 &&
        status.messages == 0 && strcmp(mailbox_get_storage(*dest)->name, "maildir") != 0)
        return replay_inbox_renew(dest, result);
    if (mailbox_is_any_inbox(*dest) || mailbox_delete_empty(*dest) < 0) {
        replay_set(result, REPLAY_CONFLICT, "another mailbox has the new name");
        return FALSE;
    }
    mailbox_close(*dest);
    return TRUE;
}

static void move(struct replay_apply *ap, struct mail_namespace *ns, const char *from, const char *to,
                 struct replay_result *result)
{
    struct mail_namespace *to_ns = replay_namespace(ap->user, to);
    struct mailbox *src, *dest;

    if (to_ns == NULL) {
        replay_set(result, REPLAY_REFUSED, "name is in no private namespace of the account");
        return;
    }
    src = box_alloc(ns, from);
    dest = box_alloc(to_ns, to);
    if (clear_target(&dest, result)) {
        if (mailbox_rename(src, dest) < 0) {
            replay_error(mailbox_get_storage(src), "mailbox cannot be renamed", result);
            /* Some of it may be done, and trying again would take that for all. */
            if (result->status == REPLAY_TEMPORARY)
                result->status = REPLAY_CONFLICT;
            replay_places_clear(ap->user);
        } else {
            replay_set(result, REPLAY_APPLIED, "");
            if (to_ns == ns)
                replay_place_renamed(ap->user, ns, from, mailbox_get_vname(dest));
            else
                replay_places_clear(ap->user);
        }
    }
    mailbox_free(&dest);
    mailbox_free(&src);
}

/* A directory has no identity: the names are all there is. */
static void rename_directory(struct replay_apply *ap, const struct us_op *op, struct replay_result *result)
{
    struct mail_namespace *ns = replay_namespace(ap->user, op->old_name);
    struct mail_namespace *to_ns = replay_namespace(ap->user, op->name);
    enum mailbox_existence from = MAILBOX_EXISTENCE_NONE, to = MAILBOX_EXISTENCE_NONE;
    struct mailbox *box;
    int ret;

    if (ns == NULL || to_ns == NULL) {
        replay_set(result, REPLAY_REFUSED, "name is in no private namespace of the account");
        return;
    }
    box = box_alloc(ns, op->old_name);
    ret = existence(box, &from, result);
    mailbox_free(&box);
    if (ret < 0)
        return;
    box = box_alloc(to_ns, op->name);
    ret = existence(box, &to, result);
    mailbox_free(&box);
    if (ret < 0)
        return;
    if (from != MAILBOX_EXISTENCE_NONE)
        move(ap, ns, op->old_name, op->name, result);
    else if (to != MAILBOX_EXISTENCE_NONE)
        replay_set(result, REPLAY_ALREADY, "");
    else
        replay_set(result, REPLAY_NO_MAILBOX, "neither the old nor the new name exists");
}

/* The place of an identity, after a look whether it still is there: a session that worked on this store by itself, or
 * another process of this service, may have moved it since the names were read. */
static struct replay_place *place_seen(struct replay_apply *ap, const guid_128_t guid)
{
    struct replay_place *place = place_of(ap, guid);
    struct mailbox_metadata metadata;
    struct mailbox *box;
    bool there;

    if (place == NULL || ap->places_fresh)
        return place;
    box = box_alloc(place->ns, place->name);
    there = mailbox_open(box) == 0 && mailbox_get_metadata(box, MAILBOX_METADATA_GUID, &metadata) == 0 &&
            guid_128_equals(metadata.guid, guid);
    mailbox_free(&box);
    if (there)
        return place;
    replay_places_read(ap->user);
    ap->places_fresh = TRUE;
    return replay_place_find(ap->user, guid);
}

static void rename_to(struct replay_apply *ap, const struct us_op *op, struct replay_result *result)
{
    struct replay_place *place;

    if (!op->has_mailbox) {
        rename_directory(ap, op, result);
        return;
    }
    place = place_seen(ap, op->mailbox);
    if (place == NULL)
        replay_set(result, REPLAY_NO_MAILBOX, "no mailbox of this GUID");
    else if (strcmp(place->name, op->name) == 0)
        replay_set(result, REPLAY_ALREADY, "");
    else
        move(ap, place->ns, t_strdup(place->name), op->name, result);
    if (result->status != REPLAY_CONFLICT)
        return;
    /* It may stand there all the same, and only what is below it does not: of that its own operations tell. */
    replay_places_read(ap->user);
    ap->places_fresh = TRUE;
    place = replay_place_find(ap->user, op->mailbox);
    if (place != NULL && strcmp(place->name, op->name) == 0)
        replay_set(result, REPLAY_APPLIED, "");
}

static void delete_named(struct replay_apply *ap, struct mail_namespace *ns, const char *name, const guid_128_t guid,
                         struct replay_result *result)
{
    struct mailbox *box = box_alloc(ns, name);
    struct mailbox_metadata metadata;
    enum mail_error error;
    bool moved;

    /* Opened, because the list of mailboxes may tell the GUID of one that stood there before. */
    moved = mailbox_open(box) == 0 && mailbox_get_metadata(box, MAILBOX_METADATA_GUID, &metadata) == 0 &&
            !guid_128_equals(metadata.guid, guid);
    mailbox_close(box);
    if (moved) {
        /* Moved by somebody else since the names were read. */
        replay_place_remove(ap->user, guid);
        replay_set(result, REPLAY_TEMPORARY, "mailbox has moved");
    } else if (replay_inbox_needs_renewal(box)) {
        if (replay_inbox_renew(&box, result)) {
            replay_place_remove(ap->user, guid);
            replay_set(result, REPLAY_APPLIED, "");
        }
    } else if (mailbox_delete(box) == 0) {
        replay_place_remove(ap->user, guid);
        replay_set(result, REPLAY_APPLIED, "");
    } else {
        (void)mailbox_get_last_error(box, &error);
        if (error == MAIL_ERROR_NOTFOUND) {
            replay_place_remove(ap->user, guid);
            replay_set(result, REPLAY_ALREADY, "");
        } else {
            replay_error(mailbox_get_storage(box), "mailbox cannot be deleted", result);
        }
    }
    mailbox_free(&box);
}

static void delete_directory(struct replay_apply *ap, const char *name, struct replay_result *result)
{
    struct mail_namespace *ns = replay_namespace(ap->user, name);
    enum mailbox_existence exists;
    struct mailbox *box;

    if (ns == NULL) {
        replay_set(result, REPLAY_REFUSED, "name is in no private namespace of the account");
        return;
    }
    box = box_alloc(ns, name);
    if (existence(box, &exists, result) == 0) {
        /* A mailbox with mail is deleted by its identity only; what a process left that was killed while it made or
           deleted one has none (seen with mdbox: a folder without an index, which nothing else removes). */
        if (exists != MAILBOX_EXISTENCE_NOSELECT && (exists == MAILBOX_EXISTENCE_NONE || is_there(box)))
            replay_set(result, REPLAY_ALREADY, "");
        else if (mailbox_delete(box) == 0)
            replay_set(result, REPLAY_APPLIED, "");
        else
            replay_error(mailbox_get_storage(box), "directory cannot be deleted", result);
    }
    mailbox_free(&box);
}

static void delete_box(struct replay_apply *ap, const struct us_op *op, struct replay_result *result)
{
    struct replay_place *place;

    if (!op->has_mailbox) {
        delete_directory(ap, op->name, result);
        return;
    }
    place = place_of(ap, op->mailbox);
    if (place == NULL)
        replay_set(result, REPLAY_ALREADY, "");
    else
        delete_named(ap, place->ns, t_strdup(place->name), op->mailbox, result);
}

/* Raises the counters. Sets *changed_r when one was lower. */
static bool raise_counters(struct replay_box *rb, const struct us_op *op, bool *changed_r,
                           struct replay_result *result)
{
    struct mailbox_status status;
    struct mailbox_update update;

    mailbox_get_open_status(rb->box, STATUS_UIDNEXT | STATUS_HIGHESTMODSEQ, &status);
    i_zero(&update);
    if (op->next_uid > status.uidnext)
        update.min_next_uid = op->next_uid;
    if (op->highest_modseq > status.highest_modseq)
        update.min_highest_modseq = op->highest_modseq;
    if (update.min_next_uid == 0 && update.min_highest_modseq == 0)
        return TRUE;
    if (mailbox_update(rb->box, &update) < 0 || replay_box_sync(rb) < 0) {
        replay_error(mailbox_get_storage(rb->box), "counters cannot be raised", result);
        return FALSE;
    }
    *changed_r = TRUE;
    return TRUE;
}

/* A place that is noted and where nothing is any more is forgotten, without opening it: Maildir would mint a
 * UIDVALIDITY. Otherwise a mailbox would be taken for one that need not be made. */
static bool look_at_place(struct replay_apply *ap, const guid_128_t guid, struct replay_result *result)
{
    struct replay_place *place = replay_place_find(ap->user, guid);
    enum mailbox_existence exists;
    struct mailbox *box;
    int ret;

    if (place == NULL || ap->places_fresh)
        return TRUE;
    box = box_alloc(place->ns, place->name);
    ret = existence(box, &exists, result);
    mailbox_free(&box);
    if (ret == 0 && exists != MAILBOX_EXISTENCE_SELECT) {
        replay_places_read(ap->user);
        ap->places_fresh = TRUE;
    }
    return ret == 0;
}

static void ensure_and_update(struct replay_apply *ap, const struct us_op *op, struct replay_result *result)
{
    struct replay_place *place;
    bool made, changed = FALSE;

    if (op->uid_validity == 0 && !look_at_place(ap, op->mailbox, result))
        return;
    if (!replay_mailbox_ensure(ap, op->mailbox, op->name, op->uid_validity, &made, result))
        return;
    place = replay_place_find(ap->user, op->mailbox);
    /* A snapshot's name is the origin's now; a live operation's was, and a rename may have come since. */
    if (!made && op->snapshot != 0 && place != NULL && strcmp(place->name, op->name) != 0) {
        move(ap, place->ns, t_strdup(place->name), op->name, result);
        if (result->status != REPLAY_APPLIED)
            return;
        changed = TRUE;
    }
    /* Without a UIDVALIDITY it is not opened: Maildir would mint one. */
    if (op->uid_validity != 0 && (!made || op->next_uid != 0 || op->highest_modseq != 0)) {
        uint32_t before;

        if (!replay_box_open(ap, &ap->current, op->mailbox, 0, result) &&
            /* Gone since its place was noted, which the attempt has found out. */
            (made || result->status != REPLAY_NO_MAILBOX ||
             !replay_mailbox_ensure(ap, op->mailbox, op->name, op->uid_validity, &made, result) ||
             !replay_box_open(ap, &ap->current, op->mailbox, 0, result)))
            return;
        before = ap->current.uid_validity;
        if (!replay_box_open(ap, &ap->current, op->mailbox, op->uid_validity, result) ||
            !raise_counters(&ap->current, op, &changed, result))
            return;
        changed = changed || before != ap->current.uid_validity;
    }
    replay_set(result, made || changed ? REPLAY_APPLIED : REPLAY_ALREADY, "");
}

void replay_apply_mailbox(struct replay_apply *ap, const struct us_op *op, struct replay_result *result)
{
    switch (op->kind) {
    case OP_MAILBOX_CREATED:
        if (!op->has_mailbox)
            make_directory(ap, op->name, result);
        else
            ensure_and_update(ap, op, result);
        break;
    case OP_MAILBOX_UPDATED:
        ensure_and_update(ap, op, result);
        break;
    case OP_MAILBOX_RENAMED:
        rename_to(ap, op, result);
        break;
    case OP_MAILBOX_DELETED:
        delete_box(ap, op, result);
        break;
    default:
        break;
    }
}
