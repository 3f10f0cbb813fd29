/* One request of an account at a time, over all processes of the service.
 *
 * Owns: a lock on the folder that is the account's home. What can hurt: an agent that was killed, or that gave up
 * waiting, leaves a process behind that still works on its request, perhaps after it waited a minute for a lock of the
 * store; what it does then is old, and would undo what the next agent replayed meanwhile. So the next one waits for
 * its turn, for a moment only, and is told to come again. The kernel takes the lock from a process that dies.
 * Refuses: keeping others waiting; an account without a folder has nothing that could be harmed. */

#include "replay.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#define TURN_PAUSE_MS 5u

bool replay_turn_take(struct replay_user *user, int *fd_r, struct replay_result *result_r)
{
    const struct timespec pause = { .tv_nsec = TURN_PAUSE_MS * 1000000L };
    const char *home;
    unsigned int waited_ms = 0;

    *fd_r = -1;
    if (mail_user_get_home(user->mail_user, &home) <= 0)
        return TRUE;
    *fd_r = open(home, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (*fd_r == -1)
        return TRUE;
    while (flock(*fd_r, LOCK_EX | LOCK_NB) < 0) {
        if (errno == EINTR)
            continue;
        if (errno != EWOULDBLOCK) {
            /* A file system without such locks. */
            i_close_fd(fd_r);
            return TRUE;
        }
        if (waited_ms >= REPLAY_TURN_MS_MAX) {
            i_close_fd(fd_r);
            replay_set(result_r, REPLAY_TEMPORARY, "an earlier request of this account has not ended");
            return FALSE;
        }
        (void)nanosleep(&pause, NULL);
        waited_ms += TURN_PAUSE_MS;
    }
    return TRUE;
}

void replay_turn_give(int *fd)
{
    if (*fd != -1)
        i_close_fd(fd);
}
