/* Service binary `understudy-replay`: replays a peer's operations into this host's Dovecot.
 *
 * Owns: start, the master's handshake, accepting the agent's connection, shutdown. What can hurt: a crash here
 * costs the agent one connection and one process; no mail session runs in it. Refuses: running without Dovecot's
 * master, and capturing what it writes (see replay-user.c).
 *
 * Dovecot's configuration for it:
 *
 *     protocol understudy-replay {
 *       # Only plugins that change how mail is stored or counted (zlib, mail_crypt, quota). Never the capture plugin.
 *       mail_plugins =
 *     }
 *     service understudy-replay {
 *       executable = /usr/lib/dovecot/understudy-replay
 *       # One connection to a process; one for each worker of the agent.
 *       client_limit = 1
 *       process_limit = 16
 *       # 64 open users, and a request of 64 MiB.
 *       vsz_limit = 1G
 *       unix_listener understudy-replay {
 *         mode = 0600
 *       }
 *     } */

#include "lib.h"
#include "master-service.h"
#include "master-service-settings.h"

#include "replay.h"

static void client_connected(struct master_service_connection *conn)
{
    master_service_client_connection_accept(conn);
    replay_conn_create(conn->fd);
}

int main(int argc, char *argv[])
{
    /* Users are opened one after the other and several mail uids may meet in one process, so the rights are
     * dropped for the time of a user only. */
    const enum mail_storage_service_flags storage_flags =
        MAIL_STORAGE_SERVICE_FLAG_USERDB_LOOKUP | MAIL_STORAGE_SERVICE_FLAG_TEMP_PRIV_DROP |
        MAIL_STORAGE_SERVICE_FLAG_NO_IDLE_TIMEOUT | MAIL_STORAGE_SERVICE_FLAG_NO_CHDIR;
    struct mail_storage_service_ctx *storage_service;

    master_service = master_service_init(REPLAY_SERVICE_NAME, MASTER_SERVICE_FLAG_KEEP_CONFIG_OPEN, &argc, &argv,
                         "");
    if (master_getopt(master_service) > 0)
        return FATAL_DEFAULT;
    master_service_init_log(master_service);
    storage_service = us_storage_service_init(master_service, storage_flags);
    replay_users_init(storage_service);
    master_service_init_finish(master_service);
    master_service_run(master_service, client_connected);

    replay_conn_destroy_all();
    replay_users_deinit();
    mail_storage_service_deinit(&storage_service);
    master_service_deinit(&master_service);
    return 0;
}
