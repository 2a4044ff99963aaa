-- What names an act compares byte by byte, as the act's own id does: a join of the two takes the collation of the id, and no index that
-- is ordered otherwise answers it. Every receipt read all that was ever revoked. The indexes on these columns are made anew.
alter table curfew.credentials alter column revocation type text collate "C";
alter table curfew.tasks alter column revocation type text collate "C";
alter table curfew.quarantines alter column revocation type text collate "C";
