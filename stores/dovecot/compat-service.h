/* The calls of the replay service that differ between Dovecot versions; compat.h is the plugin's half.
 *
 * Owns: names of our own for them. What can hurt: guessing; what was not compiled against a version is not
 * claimed for it. Compiled and run: 2.3.19 (Debian 12). Refuses: logic. */
#ifndef UNDERSTUDY_COMPAT_SERVICE_H
#define UNDERSTUDY_COMPAT_SERVICE_H

#include "lib.h"
#include "mail-storage.h"
#include "mail-storage-service.h"
#include "mail-storage-private.h"
#include "mail-index-private.h"
#include "mdbox-map-private.h"
#include "mdbox-storage.h"

/* 2.3 passes setting roots, 2.4 does not. */
static inline struct mail_storage_service_ctx *
us_storage_service_init(struct master_service *service, enum mail_storage_service_flags flags)
{
    return mail_storage_service_init(service, NULL, flags);
}

/* Fills in what a lookup needs to load this service's protocol settings. */
static inline void us_storage_service_input(struct mail_storage_service_input *input, const char *service,
                        const char *username)
{
    i_zero(input);
    input->module = "mail";
    input->service = service;
    input->username = username;
}

/* Whether the storage of an mdbox has been made anew from its files since this was asked last: that may bring messages
 * back and take some away. Dovecot itself then notes "repaired" in the open map of the storage, takes that for a new
 * damage the next time it locks the map, and in a process that stays does so without end; asking ends that. */
static inline bool us_storage_was_rebuilt(struct mail_storage *storage)
{
    struct mdbox_storage *mdbox = (struct mdbox_storage *)storage;

    if (strcmp(storage->name, "mdbox") != 0 || mdbox->corrupted || mdbox->map == NULL || mdbox->map->index == NULL)
        return FALSE;
    return mail_index_reset_fscked(mdbox->map->index);
}

#endif
