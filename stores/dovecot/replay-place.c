/* Where the mailboxes of a user are: identity to name.
 *
 * Owns: a list per user, read when an identity is not in it, kept right by every operation that moves a mailbox.
 * What can hurt: another process that renames or deletes; so whoever opens a mailbox by this list checks its GUID,
 * and the list is read again once per request when one is missing. Refuses: namespaces that are not the user's own.
 *
 * Dovecot has mailbox_alloc_guid() for this. It works on one namespace and reads all mailboxes again on every miss,
 * which makes the creation of n mailboxes n*n. */

#include "replay.h"

#include "mail-namespace.h"
#include "mailbox-list-iter.h"

void replay_set(struct replay_result *result, enum replay_status status, const char *text)
{
    result->status = status;
    result->text = text;
}

void replay_error(struct mail_storage *storage, const char *what, struct replay_result *result_r)
{
    enum mail_error error;
    const char *text = mail_storage_get_last_internal_error(storage, &error);

    switch (error) {
    case MAIL_ERROR_NOTFOUND:
        result_r->status = REPLAY_NO_MAILBOX;
        break;
    case MAIL_ERROR_EXISTS:
        result_r->status = REPLAY_CONFLICT;
        break;
    case MAIL_ERROR_NOTPOSSIBLE:
    case MAIL_ERROR_PARAMS:
    case MAIL_ERROR_PERM:
        result_r->status = REPLAY_REFUSED;
        break;
    default:
        /* Locks, quota, space, and whatever later versions name: the agent tries again. */
        result_r->status = REPLAY_TEMPORARY;
        break;
    }
    result_r->text = t_strdup_printf("%s: %s", what, text);
}

struct mail_namespace *replay_namespace(struct replay_user *user, const char *name)
{
    struct mail_namespace *ns = mail_namespace_find(user->mail_user->namespaces, name);

    return ns != NULL && ns->type == MAIL_NAMESPACE_TYPE_PRIVATE && ns->alias_for == NULL ? ns : NULL;
}

static void place_free(struct replay_user *user, unsigned int i)
{
    i_free((array_idx_modifiable(&user->places, i))->name);
    array_delete(&user->places, i, 1);
}

void replay_places_clear(struct replay_user *user)
{
    while (array_count(&user->places) > 0)
        place_free(user, array_count(&user->places) - 1);
    user->places_known = FALSE;
}

struct replay_place *replay_place_find(struct replay_user *user, const guid_128_t guid)
{
    struct replay_place *place;

    array_foreach_modifiable(&user->places, place) {
        if (guid_128_equals(place->guid, guid))
            return place;
    }
    return NULL;
}

void replay_place_set(struct replay_user *user, const guid_128_t guid, struct mail_namespace *ns, const char *name)
{
    struct replay_place *place = replay_place_find(user, guid);

    if (place == NULL) {
        place = array_append_space(&user->places);
        guid_128_copy(place->guid, guid);
    }
    place->ns = ns;
    if (place->name == NULL || strcmp(place->name, name) != 0) {
        i_free(place->name);
        place->name = i_strdup(name);
    }
}

void replay_place_remove(struct replay_user *user, const guid_128_t guid)
{
    unsigned int i;

    for (i = 0; i < array_count(&user->places); i++) {
        if (guid_128_equals((array_idx(&user->places, i))->guid, guid)) {
            place_free(user, i);
            return;
        }
    }
}

void replay_place_renamed(struct replay_user *user, struct mail_namespace *ns, const char *from, const char *to)
{
    size_t from_len = strlen(from);
    char sep = mail_namespace_get_sep(ns);
    struct replay_place *place;

    array_foreach_modifiable(&user->places, place) {
        if (strncmp(place->name, from, from_len) == 0 &&
            (place->name[from_len] == '\0' || place->name[from_len] == sep)) {
            char *name = i_strconcat(to, place->name + from_len, NULL);

            i_free(place->name);
            place->name = name;
        }
    }
}

static void read_one(struct replay_user *user, const struct mailbox_info *info)
{
    struct mailbox_metadata metadata;
    struct mailbox *box = mailbox_alloc(info->ns->list, info->vname, MAILBOX_FLAG_IGNORE_ACLS);

    /* One that cannot be opened is one that cannot be found: the operation that needs it says so. The list of mailboxes
       may tell the GUID of one that is not there any more, so it is opened. */
    if (mailbox_open(box) == 0 && mailbox_get_metadata(box, MAILBOX_METADATA_GUID, &metadata) == 0)
        replay_place_set(user, metadata.guid, info->ns, info->vname);
    mailbox_free(&box);
}

void replay_places_read(struct replay_user *user)
{
    static const char *const all[] = { "*", NULL };
    struct mailbox_list_iterate_context *iter;
    const struct mailbox_info *info;

    replay_places_clear(user);
    iter = mailbox_list_iter_init_namespaces(user->mail_user->namespaces, all, MAIL_NAMESPACE_TYPE_PRIVATE,
                                             MAILBOX_LIST_ITER_NO_AUTO_BOXES | MAILBOX_LIST_ITER_SKIP_ALIASES);
    while ((info = mailbox_list_iter_next(iter)) != NULL) {
        if ((info->flags & (MAILBOX_NOSELECT | MAILBOX_NONEXISTENT)) == 0) T_BEGIN {
            read_one(user, info);
        } T_END;
    }
    if (mailbox_list_iter_deinit(&iter) < 0)
        i_warning("listing the mailboxes of %s failed", user->name);
    user->places_known = TRUE;
}

bool replay_storage_was_rebuilt(struct replay_user *user)
{
    struct mail_namespace *ns;
    bool rebuilt = FALSE;

    for (ns = user->mail_user->namespaces; ns != NULL; ns = ns->next) {
        if (ns->type == MAIL_NAMESPACE_TYPE_PRIVATE && ns->storage != NULL && us_storage_was_rebuilt(ns->storage))
            rebuilt = TRUE;
    }
    return rebuilt;
}
