/* Opened users of one replay process.
 *
 * Owns: opening by userdb lookup, the least-recently-used bound, and whose rights the process holds. What can
 * hurt: working on one user with another's rights; so the effective ids of each user are noted when it is opened
 * and set again at every activation. Refuses: a user whose settings would capture what is replayed. */

#include "replay.h"

#include "ioloop.h"
#include "mail-namespace.h"
#include "mail-storage-settings.h"
#include "master-service.h"
#include "master-service-settings.h"

#include <grp.h>
#include <unistd.h>

static struct mail_storage_service_ctx *storage_service;
static ARRAY(struct replay_user *) users;
static uint64_t tick;

void replay_users_init(struct mail_storage_service_ctx *ctx)
{
    storage_service = ctx;
    i_array_init(&users, REPLAY_USERS_MAX);
}

/* The service may run as root or, by the administrator's choice, as the one mail user: then nothing is switched. */
static bool can_switch(void)
{
    return getuid() == 0;
}

static void become_root(void)
{
    if (can_switch() && geteuid() != 0 && seteuid(0) < 0)
        i_fatal("seteuid(0) failed: %m");
}

/* Dovecot leaves a user's context when an input handler returns. Of two requests that are read by one call of it, the
 * second would find the first one's user, and Dovecot ends a process that activates two (seen under load). */
static void leave_context(void)
{
    struct ioloop_context *context = io_loop_get_current_context(current_ioloop);

    if (context != NULL)
        io_loop_context_deactivate(context);
}

void replay_user_deactivate(void)
{
    leave_context();
    become_root();
}

void replay_user_activate(struct replay_user *user)
{
    user->used = ++tick;
    leave_context();
    mail_storage_service_io_activate_user(user->service_user);
    if (!can_switch())
        return;
    become_root();
    /* Going on with another user's rights would be worse than ending. */
    if (user->groups_count >= 0 && setgroups((size_t)user->groups_count, user->groups) < 0)
        i_fatal("setgroups() failed: %m");
    if (getegid() != user->egid && setegid(user->egid) < 0)
        i_fatal("setegid() failed: %m");
    if (user->euid != 0 && seteuid(user->euid) < 0)
        i_fatal("seteuid() failed: %m");
}

static void note_rights(struct replay_user *user)
{
    user->euid = geteuid();
    user->egid = getegid();
    user->groups_count = getgroups(0, NULL);
    if (user->groups_count > 0) {
        user->groups = i_new(gid_t, user->groups_count);
        user->groups_count = getgroups(user->groups_count, user->groups);
    }
}

void replay_user_close(struct replay_user *user)
{
    unsigned int i;

    for (i = 0; i < array_count(&users); i++) {
        if (array_idx_elem(&users, i) == user) {
            array_delete(&users, i, 1);
            break;
        }
    }
    replay_user_activate(user);
    replay_kept_close(user);
    replay_places_clear(user);
    array_free(&user->places);
    mail_user_deinit(&user->mail_user);
    leave_context();
    mail_storage_service_user_unref(&user->service_user);
    replay_user_deactivate();
    i_free(user->groups);
    i_free(user->name);
    i_free(user);
}

static void close_oldest(void)
{
    struct replay_user *oldest = NULL;
    unsigned int i;

    for (i = 0; i < array_count(&users); i++) {
        struct replay_user *user = array_idx_elem(&users, i);

        if (oldest == NULL || user->used < oldest->used)
            oldest = user;
    }
    if (oldest != NULL)
        replay_user_close(oldest);
}

/* Of all plugins the capturing one must not be there: the replica would send back what it was sent. */
static bool would_capture(const struct mail_user *mail_user)
{
    const char *plugins = mail_user->set->mail_plugins;

    return plugins != NULL && strstr(plugins, "understudy") != NULL;
}

struct replay_user *replay_user_open(const char *name, struct replay_result *result_r)
{
    struct mail_storage_service_input input;
    struct replay_user *user;
    const char *error;
    unsigned int i;
    int ret;

    for (i = 0; i < array_count(&users); i++) {
        user = array_idx_elem(&users, i);
        if (strcmp(user->name, name) == 0) {
            replay_user_activate(user);
            replay_set(result_r, REPLAY_APPLIED, "");
            return user;
        }
    }
    if (array_count(&users) >= REPLAY_USERS_MAX)
        close_oldest();

    replay_user_deactivate();
    us_storage_service_input(&input, REPLAY_SERVICE_NAME, name);
    user = i_new(struct replay_user, 1);
    ret = mail_storage_service_lookup_next(storage_service, &input, &user->service_user, &user->mail_user, &error);
    if (ret <= 0) {
        replay_user_deactivate();
        i_free(user);
        /* -1 and -2: auth does not answer, or this user's settings do not work. */
        replay_set(result_r, ret == 0 ? REPLAY_NO_USER : REPLAY_TEMPORARY,
               ret == 0 ? "user is not known to the userdb" : error);
        return NULL;
    }
    user->name = i_strdup(name);
    i_array_init(&user->places, 32);
    note_rights(user);
    array_push_back(&users, &user);
    user->used = ++tick;
    if (would_capture(user->mail_user)) {
        replay_user_close(user);
        replay_set(result_r, REPLAY_REFUSED,
               "the capture plugin is loaded for the replay service: set `protocol understudy-replay { "
               "mail_plugins = }` without it");
        return NULL;
    }
    replay_set(result_r, REPLAY_APPLIED, "");
    return user;
}

int replay_users_each(bool (*each)(void *context, const char *name), void *context)
{
    const char *name;
    int ret;
    bool ok = TRUE;

    become_root();
    mail_storage_service_all_init_mask(storage_service, "");
    /* The list is read to its end also when nobody wants it: there is no other way to end it. */
    while ((ret = mail_storage_service_all_next(storage_service, &name)) > 0) T_BEGIN {
        ok = ok && each(context, name);
    } T_END;
    return ret < 0 || !ok ? -1 : 0;
}

const char *replay_base_dir(void)
{
    mail_storage_service_init_settings(storage_service, NULL);
    return master_service_settings_get(master_service)->base_dir;
}

void replay_users_deinit(void)
{
    while (array_count(&users) > 0)
        replay_user_close(array_idx_elem(&users, 0));
    array_free(&users);
}
