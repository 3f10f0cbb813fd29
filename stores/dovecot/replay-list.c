/* The names of an account: its mailboxes and directories, and what is subscribed.
 *
 * Owns: which namespaces and names belong to the account. What can hurt: a list that is read while mailboxes are
 * changed, so it is read to its end before anybody acts on it. Refuses: shared and public namespaces, mailboxes that
 * exist by configuration only, and parents that only their children imply. */

#include "replay.h"

#include "mail-namespace.h"
#include "mailbox-list-iter.h"

static int listed_cmp(const struct replay_listed *a, const struct replay_listed *b)
{
    return strcmp(a->name, b->name);
}

static int name_cmp(const char *const *a, const char *const *b)
{
    return strcmp(*a, *b);
}

static struct mailbox_list_iterate_context *begin(struct replay_user *user, enum mailbox_list_iter_flags flags)
{
    static const char *const all[] = { "*", NULL };

    return mailbox_list_iter_init_namespaces(user->mail_user->namespaces, all, MAIL_NAMESPACE_TYPE_PRIVATE,
                                             flags | MAILBOX_LIST_ITER_SKIP_ALIASES);
}

static bool end(struct mailbox_list_iterate_context **iter, struct replay_result *result_r)
{
    if (mailbox_list_iter_deinit(iter) == 0)
        return TRUE;
    replay_set(result_r, REPLAY_TEMPORARY, "listing the mailboxes failed");
    return FALSE;
}

bool replay_list_mailboxes(struct replay_user *user, pool_t pool, ARRAY_TYPE(replay_listed) *boxes,
                           struct replay_result *result_r)
{
    struct mailbox_list_iterate_context *iter = begin(user, MAILBOX_LIST_ITER_NO_AUTO_BOXES);
    const struct mailbox_info *info;

    while ((info = mailbox_list_iter_next(iter)) != NULL) {
        struct replay_listed *box;

        /* A parent that is only implied by its children comes back with them. */
        if ((info->flags & MAILBOX_NONEXISTENT) != 0)
            continue;
        box = array_append_space(boxes);
        box->name = p_strdup(pool, info->vname);
        box->ns = info->ns;
        box->directory = (info->flags & MAILBOX_NOSELECT) != 0;
    }
    array_sort(boxes, listed_cmp);
    return end(&iter, result_r);
}

bool replay_list_subscribed(struct replay_user *user, pool_t pool, ARRAY_TYPE(const_string) *names,
                            struct replay_result *result_r)
{
    struct mailbox_list_iterate_context *iter =
        begin(user, MAILBOX_LIST_ITER_SELECT_SUBSCRIBED | MAILBOX_LIST_ITER_RETURN_NO_FLAGS);
    const struct mailbox_info *info;

    while ((info = mailbox_list_iter_next(iter)) != NULL) {
        const char *name = p_strdup(pool, info->vname);

        array_push_back(names, &name);
    }
    array_sort(names, name_cmp);
    return end(&iter, result_r);
}
