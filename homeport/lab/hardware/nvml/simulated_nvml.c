/* SIMULATION of NVIDIA's management library (libnvidia-ml.so.1) for Homeport's lab: no GPU is here.
 *
 * It has the functions that homeport_node calls through nvidia-ml-py, under the names that this
 * looks up, and keeps state as the driver does:
 *
 *   /usr/lib/simulated-gpu/gpus    the cards that are plugged in, one to a line:
 *       index|UUID|name|memory in MiB|PCI address|driver|least W|most W|default W|most MHz
 *   /run/simulated-gpu/settings    what was set, lost at a reboot as with the real driver:
 *       UUID|power limit in mW|persistence|least MHz|most MHz (both 0: clocks are not locked)
 *   /usr/lib/simulated-gpu/faults  failures to play, one to a line:
 *       UUID lost       it has fallen off the bus: every call says so
 *       UUID silent     whoever sets something is told that it went well, and nothing happens
 *       UUID busy       not a failure: it computes, at the highest clock that it may have
 *       * mismatch      the library is of another version than the loaded module
 *
 * Without persistence a card forgets its settings when a client leaves it. A card whose PCI function
 * is bound to vfio-pci is not listed. In the environment, SIMULATED_GPU_ROOT is put before the paths.
 */
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NO_PERMISSION = 4,
       INSUFFICIENT_SIZE = 7, DRIVER_NOT_LOADED = 9, GPU_IS_LOST = 15, VERSION_MISMATCH = 18 };
#define LIBRARY_VERSION "12.550.163.01" /* NVML's, and its driver's */
enum { MOST = 16, GRAPHICS = 0, IDLE_MHZ = 300, REASON_IDLE = 1, REASON_POWER_CAP = 4 };

typedef struct {
    char uuid[96], name[96], pci[32], driver[80];
    unsigned memory_mib, least_w, most_w, default_w, most_mhz;
} Card;
typedef struct { unsigned power_mw, persistence, lock_least, lock_most; } Settings;
typedef struct { char legacy[16]; unsigned domain, bus, device, id, subsystem; char bus_id[32]; } Pci;
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned pid; unsigned long long memory; unsigned gpu_instance, instance; } Process;

static Card cards[MOST]; /* a handle is the address of one of these */
static unsigned count;
static int up;

static FILE *open_file(const char *path, const char *mode) {
    char whole[4096];
    const char *root = getenv("SIMULATED_GPU_ROOT");
    snprintf(whole, sizeof whole, "%s%s", root ? root : "", path);
    return fopen(whole, mode);
}

/* One client at a time reads or changes the state; closing the file gives the lock back. */
static FILE *lock(void) {
    char whole[4096];
    const char *root = getenv("SIMULATED_GPU_ROOT");
    snprintf(whole, sizeof whole, "%s/run/simulated-gpu", root ? root : "");
    mkdir(whole, 0755);
    FILE *file = open_file("/run/simulated-gpu/lock", "a");
    if (file) flock(fileno(file), LOCK_EX);
    return file;
}

static int plays(const char *uuid, const char *fault) {
    char line[256], who[128], what[64];
    int found = 0;
    FILE *file = open_file("/usr/lib/simulated-gpu/faults", "r");
    while (file && fgets(line, sizeof line, file))
        found |= sscanf(line, "%127s %63s", who, what) == 2 && !strcmp(who, uuid) && !strcmp(what, fault);
    if (file) fclose(file);
    return found;
}

/* Whether the kernel has given the card's PCI function away; no where there is no such function. */
static int given_away(const char *pci) {
    char path[4096], target[512];
    const char *root = getenv("SIMULATED_GPU_ROOT");
    unsigned domain, bus, device, function;
    if (sscanf(pci, "%x:%x:%x.%x", &domain, &bus, &device, &function) != 4) return 0;
    snprintf(path, sizeof path, "%s/sys/bus/pci/devices/%04x:%02x:%02x.%x/driver", root ? root : "", domain,
             bus, device, function);
    ssize_t length = readlink(path, target, sizeof target - 1);
    if (length < 0) return 0;
    target[length] = 0;
    const char *name = strrchr(target, '/');
    return name && !strcmp(name, "/vfio-pci");
}

static int read_cards(void) {
    char line[512];
    FILE *file = open_file("/usr/lib/simulated-gpu/gpus", "r");
    if (!file) return DRIVER_NOT_LOADED;
    for (count = 0; count < MOST && fgets(line, sizeof line, file);) {
        Card *c = &cards[count];
        int read = sscanf(line, "%*[^|]|%95[^|]|%95[^|]|%u|%31[^|]|%79[^|]|%u|%u|%u|%u", c->uuid, c->name,
                          &c->memory_mib, c->pci, c->driver, &c->least_w, &c->most_w, &c->default_w, &c->most_mhz);
        if (read == 9 && !given_away(c->pci)) count++;
    }
    fclose(file);
    return SUCCESS;
}

static Settings settings(const Card *card) {
    Settings read, found = {card->default_w * 1000, 0, 0, 0};
    char line[256], uuid[96];
    FILE *file = open_file("/run/simulated-gpu/settings", "r");
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "%95[^|]|%u|%u|%u|%u", uuid, &read.power_mw, &read.persistence, &read.lock_least,
                   &read.lock_most) == 5 && !strcmp(uuid, card->uuid))
            found = read; /* the last one counts: writing appends */
    if (file) fclose(file);
    return found;
}

static void write_settings(const Card *card, Settings s) {
    FILE *file = open_file("/run/simulated-gpu/settings", "a");
    if (!file) return;
    fprintf(file, "%s|%u|%u|%u|%u\n", card->uuid, s.power_mw, s.persistence, s.lock_least, s.lock_most);
    fclose(file);
}

static int text(char *target, unsigned size, const char *source) {
    if (strlen(source) >= size) return INSUFFICIENT_SIZE;
    strcpy(target, source);
    return SUCCESS;
}

/* What stands in the way of any call for the card. */
static int fault(const Card *card) {
    if (card < cards || card >= cards + count) return INVALID_ARGUMENT;
    return plays(card->uuid, "lost") ? GPU_IS_LOST : SUCCESS;
}

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    int bad = plays("*", "mismatch") ? VERSION_MISMATCH : read_cards();
    up |= !bad;
    return bad;
}

int nvmlShutdown(void) {
    FILE *locked = lock();
    for (unsigned i = 0; i < count; i++) {
        Settings now = settings(&cards[i]), fresh = {cards[i].default_w * 1000, 0, 0, 0};
        if (!now.persistence && memcmp(&now, &fresh, sizeof now)) write_settings(&cards[i], fresh);
    }
    if (locked) fclose(locked);
    return SUCCESS;
}

const char *nvmlErrorString(int code) {
    (void)code;
    return "an error that the simulation does not name";
}

int nvmlSystemGetDriverVersion(char *version, unsigned size) {
    return !up ? UNINITIALIZED : text(version, size, count ? cards[0].driver : LIBRARY_VERSION + 3);
}

int nvmlSystemGetNVMLVersion(char *version, unsigned size) {
    return text(version, size, LIBRARY_VERSION);
}

int nvmlDeviceGetCount_v2(unsigned *found) {
    *found = count;
    return up ? SUCCESS : UNINITIALIZED;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, Card **card) {
    if (index >= count) return INVALID_ARGUMENT;
    *card = &cards[index];
    return fault(*card);
}

int nvmlDeviceGetUUID(const Card *card, char *uuid, unsigned size) {
    int bad = fault(card);
    return bad ? bad : text(uuid, size, card->uuid);
}

int nvmlDeviceGetName(const Card *card, char *name, unsigned size) {
    int bad = fault(card);
    return bad ? bad : text(name, size, card->name);
}

int nvmlDeviceGetPciInfo_v3(const Card *card, Pci *pci) {
    int bad = fault(card);
    if (bad) return bad;
    memset(pci, 0, sizeof *pci);
    sscanf(card->pci, "%x:%x:%x", &pci->domain, &pci->bus, &pci->device);
    strcpy(pci->bus_id, card->pci);
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo(const Card *card, Memory *memory) {
    int bad = fault(card);
    if (bad) return bad;
    memory->total = (unsigned long long)card->memory_mib << 20;
    memory->used = plays(card->uuid, "busy") ? memory->total / 2 : 0;
    memory->free = memory->total - memory->used;
    return SUCCESS;
}

int nvmlDeviceGetTemperature(const Card *card, unsigned sensor, unsigned *celsius) {
    int bad = fault(card);
    if (bad) return bad;
    if (sensor) return INVALID_ARGUMENT;
    *celsius = plays(card->uuid, "busy") ? 70 : 35;
    return SUCCESS;
}

int nvmlDeviceGetClockInfo(const Card *card, unsigned type, unsigned *mhz) {
    int bad = fault(card);
    if (bad) return bad;
    if (type != GRAPHICS) return NOT_SUPPORTED;
    Settings now = settings(card);
    unsigned most = now.lock_most ? now.lock_most : card->most_mhz;
    *mhz = plays(card->uuid, "busy") ? most : IDLE_MHZ;
    return SUCCESS;
}

int nvmlDeviceGetMaxClockInfo(const Card *card, unsigned type, unsigned *mhz) {
    int bad = fault(card);
    if (bad) return bad;
    if (type != GRAPHICS) return NOT_SUPPORTED;
    *mhz = card->most_mhz;
    return SUCCESS;
}

int nvmlDeviceGetCurrentClocksEventReasons(const Card *card, unsigned long long *reasons) {
    int bad = fault(card);
    if (bad) return bad;
    int capped = settings(card).power_mw < card->default_w * 1000;
    *reasons = !plays(card->uuid, "busy") ? REASON_IDLE : capped ? REASON_POWER_CAP : 0;
    return SUCCESS;
}

int nvmlDeviceGetComputeRunningProcesses_v3(const Card *card, unsigned *found, Process *processes) {
    int bad = fault(card);
    if (bad) return bad;
    unsigned room = *found;
    *found = plays(card->uuid, "busy") ? 1 : 0;
    if (room < *found) return INSUFFICIENT_SIZE;
    if (*found) processes[0] = (Process){1, ((unsigned long long)card->memory_mib << 20) / 2, ~0u, ~0u};
    return SUCCESS;
}

int nvmlDeviceGetPersistenceMode(const Card *card, unsigned *mode) {
    int bad = fault(card);
    if (!bad) *mode = settings(card).persistence;
    return bad;
}

int nvmlDeviceGetPowerManagementLimit(const Card *card, unsigned *mw) {
    int bad = fault(card);
    if (!bad) *mw = settings(card).power_mw;
    return bad;
}

int nvmlDeviceGetPowerManagementDefaultLimit(const Card *card, unsigned *mw) {
    int bad = fault(card);
    if (!bad) *mw = card->default_w * 1000;
    return bad;
}

int nvmlDeviceGetPowerManagementLimitConstraints(const Card *card, unsigned *least, unsigned *most) {
    int bad = fault(card);
    if (bad) return bad;
    *least = card->least_w * 1000;
    *most = card->most_w * 1000;
    return SUCCESS;
}

/* What every setter begins with: SUCCESS and *silent when nothing is to happen. */
static int may_set(const Card *card, int *silent) {
    int bad = fault(card);
    if (bad) return bad;
    *silent = plays(card->uuid, "silent");
    return geteuid() ? NO_PERMISSION : SUCCESS;
}

/* Change one value, at `offset` in the settings, and the one after it when `second` is given. */
static int set(const Card *card, size_t offset, unsigned first, const unsigned *second) {
    int silent = 0, bad = may_set(card, &silent);
    if (bad || silent) return bad;
    FILE *locked = lock();
    Settings now = settings(card);
    memcpy((char *)&now + offset, &first, sizeof first);
    if (second) memcpy((char *)&now + offset + sizeof first, second, sizeof *second);
    write_settings(card, now);
    if (locked) fclose(locked);
    return SUCCESS;
}

int nvmlDeviceSetPersistenceMode(const Card *card, unsigned mode) {
    return mode > 1 ? INVALID_ARGUMENT : set(card, offsetof(Settings, persistence), mode, NULL);
}

int nvmlDeviceSetPowerManagementLimit(const Card *card, unsigned mw) {
    int bad = fault(card);
    if (bad) return bad;
    if (mw < card->least_w * 1000 || mw > card->most_w * 1000) return INVALID_ARGUMENT;
    return set(card, offsetof(Settings, power_mw), mw, NULL);
}

int nvmlDeviceSetGpuLockedClocks(const Card *card, unsigned least, unsigned most) {
    int bad = fault(card);
    if (bad) return bad;
    if (least > most || most > card->most_mhz) return INVALID_ARGUMENT;
    return set(card, offsetof(Settings, lock_least), least, &most);
}

int nvmlDeviceResetGpuLockedClocks(const Card *card) {
    unsigned none = 0;
    return set(card, offsetof(Settings, lock_least), none, &none);
}
