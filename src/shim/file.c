// SPDX-License-Identifier: GPL-2.0
/*
 * Mapped files: held by their paths, told apart, read, and written back.
 *
 * Locks: none is held here; folio locks are only tried. But for pm_file_get() and
 * the facts about an inode, which the walk asks for under mmap_lock, everything
 * may sleep for as long as a file system likes: the caller holds no lock.
 */
#include <linux/cred.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <linux/path.h>
#include <linux/sched/signal.h>
#include <linux/shmem_fs.h>
#include <linux/slab.h>
#include <linux/workqueue.h>
#include <linux/xattr.h>

#include "shim.h"

/*
 * A file is held by its path. The open file would be held back from its last
 * close, which drops locks and leases, and lets the file be executed.
 *
 * File systems that are stacked on others, or share pages among their files, map
 * another file than the one that was opened.
 */
void pm_file_get(const struct file *file, struct pm_file *held)
{
	held->path = *file_user_path(file);
	held->pages = file->f_path;
	held->opener = get_cred(file->f_cred);
	path_get(&held->path);
	path_get(&held->pages);
}

/*
 * Whether a server answers for the pages of a file: it may never do so, and
 * whoever waits for it may hold their locks. fuseblk has a device, and a server.
 */
bool pm_inode_is_served(const struct inode *inode)
{
	const struct super_block *sb = inode->i_sb;

	return !S_ISBLK(inode->i_mode) && !shmem_mapping(inode->i_mapping) &&
	       sb->s_magic != HUGETLBFS_MAGIC &&
	       (!(sb->s_type->fs_flags & FS_REQUIRES_DEV) ||
		sb->s_magic == FUSE_SUPER_MAGIC);
}

void pm_inode_facts(struct pm_inode *out, const struct inode *inode)
{
	out->at = (unsigned long)inode;
	out->ino = inode->i_ino;
	out->generation = inode->i_generation;
	out->dev = inode->i_sb->s_dev;
}

void pm_shim_file_inode(const struct pm_file *file, struct pm_inode *out)
{
	pm_inode_facts(out, d_inode(file->path.dentry));
}

void pm_shim_file_asked(const struct pm_file *file, struct pm_asked *out)
{
	const struct super_block *sb = d_inode(file->path.dentry)->i_sb;

	out->dev = sb->s_dev;
	/* A user who mounts it answers for all user IDs of the user's namespace. */
	out->uid = from_kuid(&init_user_ns, sb->s_user_ns == &init_user_ns ?
			     file->opener->uid : sb->s_user_ns->owner);
}

/* Whether a server has to be waited for to read its attributes. */
bool pm_shim_file_is_served(const struct pm_file *file)
{
	return pm_inode_is_served(d_inode(file->path.dentry));
}

/* Whether nobody has to be waited for to read its attributes. */
bool pm_shim_file_is_in_memory(const struct pm_file *file)
{
	return shmem_mapping(d_inode(file->path.dentry)->i_mapping);
}

struct pm_file_work {
	struct work_struct work;
	struct pm_file file;
};

static void pm_file_drop(struct pm_file *file)
{
	path_put(&file->path);
	path_put(&file->pages);
	put_cred(file->opener);
}

static void pm_file_work(struct work_struct *work)
{
	struct pm_file_work *here = container_of(work, struct pm_file_work, work);

	pm_file_drop(&here->file);
	kfree(here);
}

/*
 * Whoever puts the last reference may have to wait for a server. A caller leaves
 * that to a worker.
 */
void pm_shim_file_put(struct pm_file *file)
{
	struct pm_file_work *work = NULL;

	if (!(current->flags & PF_KTHREAD) && !pm_shim_file_is_in_memory(file))
		work = kmalloc_obj(*work, GFP_KERNEL_ACCOUNT);
	if (!work) {
		pm_file_drop(file);
		return;
	}
	work->file = *file;
	INIT_WORK(&work->work, pm_file_work);
	queue_work(pm_workqueue, &work->work);
}

/**
 * pm_shim_file_xattr() - read an extended attribute, whoever the caller is
 * @file: the file, held
 * @name: full name of the attribute
 * @value: out
 * @size: size of @value in bytes
 *
 * May sleep for as long as the file system likes: hold no lock. A server sees
 * the one who opened the file, who could read it.
 *
 * Return: bytes read, or an errno; -ERANGE if the value is larger than @size.
 */
ssize_t pm_shim_file_xattr(const struct pm_file *file, const char *name,
			   void *value, size_t size)
{
	struct dentry *dentry = file->path.dentry;
	const struct cred *before = override_creds(file->opener);
	ssize_t len;

	len = __vfs_getxattr(dentry, d_inode(dentry), name, value, size);
	revert_creds(before);
	return len;
}

/*
 * A journal keeps the buffers of a file's pages for as long as it lists them for a
 * checkpoint, although they have been written by now. Take them away.
 */
static void pm_release_buffers(struct address_space *mapping)
{
	struct folio_batch fbatch;
	pgoff_t index = 0;

	folio_batch_init(&fbatch);
	while (!fatal_signal_pending(current) &&
	       filemap_get_folios(mapping, &index, ULONG_MAX, &fbatch)) {
		for (unsigned int i = 0; i < folio_batch_count(&fbatch); i++) {
			struct folio *folio = fbatch.folios[i];

			if (!folio_trylock(folio))
				continue;
			if (folio->mapping == mapping)
				filemap_release_folio(folio, GFP_KERNEL);
			folio_unlock(folio);
		}
		folio_batch_release(&fbatch);
		cond_resched();
	}
}

/**
 * pm_shim_file_write_back() - have a file's dirty pages written
 * @file: the file, held
 *
 * Starts it where a server has to answer, which may then be waited for only
 * where many writes are under way. Waits for a disk.
 */
void pm_shim_file_write_back(const struct pm_file *file)
{
	struct inode *inode = d_inode(file->pages.dentry);
	bool wait = !pm_inode_is_served(inode);

	write_inode_now(inode, wait);
	if (wait)
		pm_release_buffers(inode->i_mapping);
}
