/* Names subscribed and unsubscribed.
 *
 * Owns: the answer "was already so", which Dovecot does not give: the subscriptions are read once per request. What
 * can hurt: nothing; a name needs no mailbox to be subscribed. Refuses: namespaces that are not the user's own. */

#include "replay.h"

#include "mail-namespace.h"
#include "mailbox-list-iter.h"

static void read_subscribed(struct replay_apply *ap)
{
    static const char *const all[] = { "*", NULL };
    struct mailbox_list_iterate_context *iter;
    const struct mailbox_info *info;

    p_array_init(&ap->subscribed, ap->pool, 32);
    ap->subscribed_known = TRUE;
    iter = mailbox_list_iter_init_namespaces(ap->user->mail_user->namespaces, all, MAIL_NAMESPACE_TYPE_PRIVATE,
                                             MAILBOX_LIST_ITER_SELECT_SUBSCRIBED | MAILBOX_LIST_ITER_RETURN_NO_FLAGS);
    while ((info = mailbox_list_iter_next(iter)) != NULL) {
        const char *name = p_strdup(ap->pool, info->vname);

        array_push_back(&ap->subscribed, &name);
    }
    if (mailbox_list_iter_deinit(&iter) < 0)
        i_warning("reading the subscriptions of %s failed", ap->user->name);
}

static int find_subscribed(struct replay_apply *ap, const char *name)
{
    unsigned int i;

    for (i = 0; i < array_count(&ap->subscribed); i++) {
        if (strcmp(array_idx_elem(&ap->subscribed, i), name) == 0)
            return (int)i;
    }
    return -1;
}

void replay_apply_subscription(struct replay_apply *ap, const struct us_op *op, struct replay_result *result)
{
    bool set = op->kind == OP_SUBSCRIBED;
    struct mail_namespace *ns = replay_namespace(ap->user, op->name);
    struct mailbox *box;
    int at;

    if (ns == NULL) {
        replay_set(result, REPLAY_REFUSED, "name is in no private namespace of the account");
        return;
    }
    if (!ap->subscribed_known)
        read_subscribed(ap);
    at = find_subscribed(ap, op->name);
    if (set == (at >= 0)) {
        replay_set(result, REPLAY_ALREADY, "");
        return;
    }
    box = mailbox_alloc(ns->list, op->name, MAILBOX_FLAG_IGNORE_ACLS);
    if (mailbox_set_subscribed(box, set) < 0) {
        replay_error(mailbox_get_storage(box), "subscription cannot be changed", result);
    } else {
        replay_set(result, REPLAY_APPLIED, "");
        if (set) {
            const char *name = p_strdup(ap->pool, op->name);

            array_push_back(&ap->subscribed, &name);
        } else {
            array_delete(&ap->subscribed, (unsigned int)at, 1);
        }
    }
    mailbox_free(&box);
}
